"""What the system talks about: ids, resources, workflows, tasks, agents, commands. No I/O, no clock."""
