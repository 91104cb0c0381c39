"""Effects: the intent is in the log before the call, the outcome after it.

    begun        the attempt that holds the intent may be calling, or died while it called
    done         recorded among the steps: no later attempt calls
    not done     the call has certainly not happened: the next attempt calls
    uncertain    nobody can tell: a person decides
    retry        a person decided: the next attempt calls
    failed       a person decided: recorded, and every attempt raises that

The first attempt that begins an effect holds its intent. A later one takes the intent over when the attempt that
holds it is over, and then has to find out what became of the call. While both live (a backup), the later one waits.
Only the holder, while it is live, tells the outcome. So a call that is under way has one live attempt at most.

An effect without a record keeps room for one among the steps: an outcome is never refused for a limit.
"""
