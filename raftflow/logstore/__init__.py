"""Where the output of attempts is kept beside their agents: a folder that machines share, or S3.

Agents write to it when attempts have ended (`agent/output/output_uploads.py`). Replicas read what an agent does not
have any more
from it (`coordinator/sessions/stored_logs.py`). An attempt that wrote something is a few objects:

    WORKFLOW/TASK/ATTEMPT-FENCE/stdout      the bytes that were kept, one after the other
    WORKFLOW/TASK/ATTEMPT-FENCE/stderr
    WORKFLOW/TASK/ATTEMPT-FENCE/meta.json   what of the streams they are; written last: without it nothing is there

All calls block. Raftflow never removes anything from a store.
"""
