"""When a replica stands for election: questions before an election, and handover."""
