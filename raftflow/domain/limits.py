"""Every published limit of the replicated core, in one place. Configuration may lower them, never raise them."""

NAME_CHARS_MAX = 200
"""Characters in the name of a workflow, a task, an agent or a resource."""

TASKS_PER_WORKFLOW_MAX = 100_000
NEEDS_PER_TASK_MAX = 10_000
EDGES_PER_WORKFLOW_MAX = 1_000_000

TASKS_GROWN_MAX = 250_000
"""Tasks of one workflow together with the children that its tasks spawned."""
CHILDREN_PER_TASK_MAX = 100_000
SPAWN_DEPTH_MAX = 10_000
"""Ancestors of a child."""
SPAWN_TASKS_MAX = 500
"""Children in one command."""
SPAWN_KEY_CHARS_MAX = 70
"""Characters of the key of a child."""
SPAWNED_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of what the children of one workflow run: commands, arguments and environments."""
PARK_RANGES_MAX = 1_000
"""Ranges of children that a parked task waits for."""
PARK_WAITS_MAX = 1_000
"""Waits that a parked task waits for."""
IDLE_PARKS_MAX = 100
"""Times in a row that a task may park although nothing that it waits for is open."""

COMMAND_ARGS_MAX = 1_000
SPEC_BYTES_MAX = 64 * 1024
"""Bytes of one task's command, arguments and environment together."""

RESULT_BYTES_MAX = 64 * 1024
"""Bytes of one task's result as JSON. Larger outputs belong in a file that the result names."""

RESULTS_BYTES_MAX = 4 * 1024 * 1024 * 1024
"""Bytes of the results of all workflows in the task table. An attempt whose result would pass it fails."""
RESULT_SMALL_BYTES = 1024
"""A result of up to this size is always taken."""

INPUTS_BYTES_MAX = NEEDS_PER_TASK_MAX * RESULT_BYTES_MAX
"""Bytes of results that one task can be given, 625 MiB: as many needs as a document may name cannot pass it."""
INPUTS_INLINE_BYTES_MAX = 32 * 1024
"""Bytes of inputs that come with the assignment of an attempt. The agent fetches larger ones in pieces."""
INPUTS_PIECE_BYTES_MAX = 512 * 1024
"""Bytes of one piece of inputs; a piece holds at least one input."""
INPUTS_PIECE_COUNT_MAX = 1_000
"""Inputs in one piece."""

JSON_DEPTH_MAX = 64
"""Brackets within brackets in JSON from outside: documents, arguments, results."""
INTEGER_DIGITS_MAX = 640
"""Digits of a whole number in a document, an argument or a result. Every Python reads and writes so many, whatever
limit it is told (`sys.set_int_max_str_digits` takes no smaller one)."""

ERROR_CHARS_MAX = 4_096
"""Characters of an error text kept with an attempt; the rest is cut."""

RESOURCES_PER_TASK_MAX = 16
LABELS_MAX = 64
RESOURCE_UNITS_MAX = 2**53
"""Largest amount of one resource, in its integer unit."""

RETRIES_MAX = 1_000
AGENTS_LOST_MAX = 4
"""Agents lost while a task ran there, and with no greater suspect beside it, after which the task fails. Losses that
are part of a mass loss, goodbyes and drains do not count, nor do attempts that only waited there."""
DURATION_MS_MAX = 366 * 24 * 3600 * 1000

PRIORITY_MAX = 100

KINDS_MAX = 10_000
"""Kinds of tasks of which run times are remembered."""

CACHE_KEY_CHARS_MAX = 1_024
"""Characters of a cache key, and of its template."""
CACHE_ENTRIES_MAX = 10_000
CACHE_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of the cached results and what surrounds them. The least recently used go first."""
CACHE_INPUTS_BYTES_MAX = 8 * 1024 * 1024
"""Bytes of inputs that go into an automatic key. A task with more input runs without sharing: hashing would block
every replica."""
CACHE_LINE_MAX = 100_000
"""Tasks that wait for one that is equal to them; one more runs by itself."""

ENTRY_BYTES_MAX = 16 * 1024 * 1024
"""Bytes of one log entry; also bounds a workflow document."""

WORKFLOWS_MAX = 100_000
"""Workflows in the task table, finished ones that are still kept included."""

LIVE_TASKS_MAX = 2_000_000
"""Tasks of unfinished workflows and of uploads. A submission that would pass it is refused until others finish."""

UPLOADS_MAX = 8
"""Workflows that come in pieces at the same time."""
PIECE_TASKS_MAX = 1_000
"""Tasks in one piece of a workflow, and profiles in it."""
PIECE_NEEDS_MAX = 10_000
"""Needs of the tasks of one piece, all together."""
PIECE_BYTES_MAX = 256 * 1024
"""Bytes of the profiles and tasks of one piece."""

BUNDLES_MAX = 1_000
"""Code bundles that the cluster keeps."""
BUNDLE_BYTES_MAX = 16 * 1024 * 1024
"""Bytes of one code bundle."""
BUNDLES_BYTES_MAX = 2 * 1024 * 1024 * 1024
"""Bytes of all code bundles that the cluster keeps."""
BUNDLE_FILES_MAX = 4_000
BUNDLE_PATH_CHARS_MAX = 512
"""Characters of the path of a file in a bundle."""
BUNDLE_PIECE_BYTES_MAX = 1024 * 1024
"""Bytes of a bundle that one request reads."""
BUNDLE_UNUSED_MS = 3600 * 1000
"""A bundle that no kept workflow refers to is forgotten after this time."""
BUNDLE_UNUSED_MIN_MS = 60 * 1000
"""The same if the room is needed for others."""

AGENTS_MAX = 20_000

TROUBLE_CHARS_MAX = 512
"""Of the reason for which an agent says that it is unfit."""

AGENT_FAULTS_MAX = 10
"""Attempts of a task that may end as the fault of their agents, at no cost in retries. Those after them count as
failed: the task may be what breaks them."""

REQUEST_IDS_MAX = 65_536
"""Remembered replies; the oldest is forgotten first."""

STEP_RESULT_BYTES_MAX = RESULT_BYTES_MAX
"""Bytes of the result of one durable step as JSON."""
STEPS_PER_TASK_MAX = 20_000
"""Records of durable steps of one task, of all its attempts together."""
STEPS_BYTES_PER_WORKFLOW_MAX = 256 * 1024 * 1024
"""Bytes of the records of one workflow, 256 for each beside its name and result."""
STEPS_MAX = 2_000_000
"""Records of durable steps of all workflows that are kept."""
STEPS_BYTES_MAX = 2 * 1024 * 1024 * 1024
EFFECTS_PER_TASK_MAX = 10_000
"""Effects of one task, of all its attempts together."""
EFFECTS_MAX = 250_000
"""Effects of all workflows that are kept."""
EFFECT_RESULT_BYTES_MAX = STEP_RESULT_BYTES_MAX - 1024
"""Bytes of the result of one effect as JSON: its record says more than that."""
EFFECT_DETAIL_CHARS_MAX = 1_000
"""Characters of what is told about the outcome of an effect."""
IDEMPOTENCY_KEY_CHARS_MAX = 64
"""Characters of the key that an effect gives to the service that it calls."""
WAITS_MAX = 500_000
"""Open waits and decided approvals of all workflows that are kept."""
WAITS_BYTES_MAX = 1024 * 1024 * 1024
"""Bytes of them, 512 for each beside its texts."""
WAITS_BYTES_PER_WORKFLOW_MAX = 256 * 1024 * 1024
WAITS_PER_TASK_MAX = 1_000
"""Open waits of one task."""
WAIT_REQUEST_BYTES_MAX = 32 * 1024
"""Bytes of what a wait asks: the details of an approval, or the schema of a signal."""
ON_TIMEOUT_BYTES_MAX = 1024
"""Bytes of the value that counts when a wait has timed out."""
TITLE_CHARS_MAX = NAME_CHARS_MAX
"""Characters of the title of an approval."""
CHOICES_MAX = 20
CHOICE_CHARS_MAX = 100
COMMENT_CHARS_MAX = 2_000
"""Characters of the comment of somebody who decides."""
SCHEMA_BYTES_MAX = 16 * 1024
"""Bytes of the schema of a signal."""
SIGNAL_BYTES_MAX = RESULT_BYTES_MAX - 2 * 1024
"""Bytes of the payload of a signal as JSON: it becomes part of a record."""
SIGNAL_FAULT_CHARS_MAX = 200
"""Characters of why a payload does not fit a schema."""
SIGNALS_PER_WORKFLOW_MAX = 1_000
"""Signals of one workflow that were sent before a wait for them began."""
SIGNALS_BYTES_PER_WORKFLOW_MAX = 4 * 1024 * 1024
SIGNALS_MAX = 100_000
"""Signals of all workflows that wait for a wait."""
SIGNALS_BYTES_MAX = 256 * 1024 * 1024
SIGNAL_KEYS_PER_WORKFLOW_MAX = 10_000
"""Keys of signals that a workflow remembers; the oldest is forgotten first."""
SIGNAL_KEYS_MAX = 1_000_000
"""Keys of signals of all workflows."""
CALLS_MAX = 1_000
"""Calls of attempts in one request of their agent."""
CALL_STEPS_MAX = 256
"""Records of steps in one answer."""
FUNCTION_CHARS_MAX = 500
"""Characters of the name of a function that a step runs."""

BUDGETS_PER_WORKFLOW_MAX = 16
"""Budgets of one workflow, and different things that one step spends."""
BUDGET_NAME_CHARS_MAX = 100
BUDGET_MILLIONTHS_MAX = 10**18
"""Largest amount of a budget and of what is spent, in millionths of a unit."""
BUDGET_TASKS_SHOWN_MAX = 1_000
"""Tasks in one answer that says what was spent by which task."""
BUDGET_NAMES_SPENT_MAX = 64
"""Different things of which one workflow counts what is spent."""

RATE_LIMITS_MAX = 1_000
"""Rate limits of the cluster."""
RATE_NAME_CHARS_MAX = 100
"""Characters of the name of a rate limit."""
RATE_AMOUNT_MAX = 1_000_000_000
"""Units of a rate limit in its unit of time, and units that its bucket holds."""
RATES_PER_TASK_MAX = 16
"""Rate limits from which one task takes."""
RATE_TAKES_MAX = 1_000
"""Attempts that take from rate limits in one command."""

TOKENS_MAX = 1_000
"""Tokens of the cluster."""
TOKEN_LIFETIME_MS_MAX = 10 * 366 * 86_400_000
"""Longest time for which a token is valid, and for which an old secret is valid beside the new one."""
TOKEN_DIGEST_BYTES = 32
"""Bytes of the digest of a token (SHA-256)."""

ATTEMPT_HISTORY_MAX = 16
"""Ended attempts remembered per task, the newest; the audit file has all."""

PREFETCH_MAX = 1_024
"""Attempts that may wait in one agent's queue."""

OFFERS_MAX = 1_000
"""Finished results that an agent brings back when it returns."""

USAGE_PER_POLL_MAX = 4_096
"""Running attempts whose usage one poll tells; those beyond it are told with the next ones."""

NUMBER_MAX = 2**63 - 1
"""Largest whole number of a request: what the log's formats hold."""
BYTE_OFFSET_MAX = 2**53
"""Largest byte of a file or stream that a request begins at. Files cannot be read near `NUMBER_MAX`."""
USAGE_NUMBER_MAX = 2**53
"""Largest number that a usage may have: what every JSON reader takes exactly."""
EXIT_CODE_MIN, EXIT_CODE_MAX = -(2**31), 2**32 - 1

LABEL_CHARS_MAX = NAME_CHARS_MAX
"""Characters of the value of a label."""
AMOUNT_CHARS_MAX = 64
"""Characters of an amount of a resource that is written as text."""
VERSION_CHARS_MAX = 100
URL_CHARS_MAX = 2_000
ADDRESS_CHARS_MAX = 300
"""Characters of `host:port`."""

ENDS_PER_POLL_MAX = 10_000
"""More than an agent here sends; the body's size bounds them before."""
FENCES_PER_POLL_MAX = 100_000
"""Attempts that one poll names as running, and as many as queued."""
LOGS_PER_POLL_MAX = 64
LOG_PIECE_BYTES_MAX = 256 * 1024
"""Bytes of one piece of an attempt's output."""
LOG_REQUEST_CHARS_MAX = 64

QUERY_CHARS_MAX = 2_048
"""Characters of a query parameter: a cursor may hold a cache key."""

SNAPSHOT_PIECE_BYTES_MAX = 1024 * 1024
"""Bytes of a snapshot that one request reads."""
SNAPSHOTS_OPEN_MAX = 4
"""Snapshots that one replica keeps open for clients."""

PAGE_ENTRIES_MAX = 10_000
"""Entries of one page of a listing, whatever limit is asked for."""
AUDIT_PAGE_RECORDS_MAX = 1_000
EVENTS_PAGE_MAX = 1_000
EVENTS_WAIT_MS_MAX = 20_000
EVENT_READERS_MAX = 1_000
"""Streams of events and held requests for events at one replica."""
EVENT_READERS_PER_CLIENT_MAX = 300
"""Of them those of one identity."""
CURSOR_PATTERN = "[0-9]+"
"""Of the cursors of workflows and tasks."""
CURSOR_CHARS_MAX = 18
WORKFLOW_WAIT_MS_MAX = 10_000
"""How long the answer to a client that waits for the end of a workflow may be held."""
LEADER_WAIT_MS_MAX = 60_000
"""How long the answer to a client that waits for a new leader may be held."""

REFUSALS_MAX = 500
"""Rows of refused requests that a replica keeps in memory: so many of strangers, as many of those with a token."""
REFUSALS_OF_ADDRESS_MAX = 40
"""Such rows of one address."""
