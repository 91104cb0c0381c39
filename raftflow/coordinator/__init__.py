"""One replica: configuration, leader loop, group commit, audit file."""
