async def test_runs_a_command_and_a_callable(leader, start_agent):
    start_agent()
    end = await leader.run(command=["sh", "-c", 'echo "{\\"a\\": 1}" > $RAFTFLOW_RESULT; echo hello'])
    assert (end.outcome, bytes(end.result), end.exit_code) == ("succeeded", b'{"a": 1}', 0)
    end = await leader.run(python="operator:add", args=[1, 2])
    assert (end.outcome, bytes(end.result)) == ("succeeded", b"3"), end.error
    end = await leader.run(command=["/bin/false"])
    assert (end.outcome, end.exit_code) == ("failed", 1)
