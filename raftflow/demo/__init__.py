"""The main job: a real workflow on a local cluster whose leader is killed, with a verdict."""
