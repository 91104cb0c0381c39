"""What every request needs: bodies, problems, access, hosts. Knows no route."""
