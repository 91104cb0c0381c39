"""What every request needs: bodies, problems, hosts, slices. Knows no route."""
