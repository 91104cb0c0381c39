"""The harness on a system of others, a 3-node etcd: it must find what is wrong there, and invent nothing."""
