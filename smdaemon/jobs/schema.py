"""The tables of the journal, and how an older journal becomes a current one. The comments here are the canonical ones.

Each migration is run in one transaction together with the rise of `user_version`, so a crash leaves the old schema or the
new one. A migration, once released, is never changed; a new one is added at the end.
"""

# "smda" as a big-endian number, in the header of the file: tells a journal from any other SQLite database.
APPLICATION_ID = 0x736D6461

MIGRATIONS: tuple[str, ...] = (
    """
    -- One export's life. A row is inserted in state 'detected' once a drop is accepted, and from then on only ever moved;
    -- only prune deletes rows, and only ended ones. After a crash rows in staging, writing, verifying or committing are
    -- what was interrupted: the scheduler moves them back to 'queued' before it starts anything.
    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        model TEXT NOT NULL,
        -- one of smdaemon/jobs/states.py
        state TEXT NOT NULL,
        -- why it is in this state; '' where the state speaks for itself
        reason TEXT NOT NULL,
        -- 'drop', 'request', 'api' or 'handoff'
        origin TEXT NOT NULL,
        -- path as the file system has it: bytes, because a file name need not be UTF-8
        source BLOB NOT NULL,
        -- which content lay at source when it was accepted
        identity TEXT NOT NULL,
        -- '' until it is known
        format TEXT NOT NULL,
        -- serialised smdaemon.v1.ExportRequest
        request BLOB NOT NULL,
        -- path; empty if no result file was asked for
        result_path BLOB NOT NULL,
        -- how new the drop is among those of its model: INTEGER step, or REAL modification time
        drop_order ANY NOT NULL,
        -- NULL until it is chosen
        version INTEGER,
        -- path; empty until published
        export_dir BLOB NOT NULL,
        -- 0 until they are known
        tensors INTEGER NOT NULL,
        bytes_total INTEGER NOT NULL,
        -- attempts begun since the job was accepted or last retried by a person
        attempts INTEGER NOT NULL,
        -- unix seconds; set in 'waiting' only, NULL elsewhere
        retry_at REAL,
        -- unix seconds
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        -- of the last attempt; code '' if there was no error
        error_code TEXT NOT NULL,
        error_message TEXT NOT NULL,
        error_remedy TEXT NOT NULL,
        error_retryable INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX jobs_by_model ON jobs (model, id);
    CREATE INDEX jobs_by_state ON jobs (state, model, id);

    -- Every move of every job: the event stream. Written in the same transaction as the job's row, so the newest row of a
    -- job always says its state. AUTOINCREMENT: a seq is never used twice, even after prune.
    CREATE TABLE transitions (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        state TEXT NOT NULL,
        at REAL NOT NULL,
        reason TEXT NOT NULL
    ) STRICT;
    CREATE INDEX transitions_by_job ON transitions (job, seq);

    -- What was ever accepted: a hash of model, source, identity and request. Outlives its job, because a drop that still
    -- lies in the watched directory must not be exported again after its job is pruned.
    CREATE TABLE accepted (
        key BLOB PRIMARY KEY
    ) STRICT, WITHOUT ROWID;

    -- The last number given out under version = "sequence". A crash between the number and its use leaves a gap, never a
    -- number used twice.
    CREATE TABLE sequences (
        model TEXT PRIMARY KEY,
        last INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    """
    -- the version whose content a rollback publishes once more; NULL for an export
    ALTER TABLE jobs ADD COLUMN restores INTEGER;
    -- the last that the validator said in the last attempt, made printable; '' where none ran
    ALTER TABLE jobs ADD COLUMN validator_output TEXT NOT NULL DEFAULT '';

    -- What this daemon published, by model and directory. A row is written in the transaction that moves its job to
    -- 'published', and outlives that job: retention removes only what stands here. A crash between the removal of a directory
    -- and its removed_at leaves a row without a directory; the next look at the model's versions makes up for it.
    CREATE TABLE versions (
        model TEXT NOT NULL,
        version INTEGER NOT NULL,
        -- path
        export_dir BLOB NOT NULL,
        -- which directory it is: what publish/local.py calls its identity. '' for what was published before this table was
        -- there, until somebody has looked
        identity TEXT NOT NULL,
        -- it was the so many-th of its model to be published
        place INTEGER NOT NULL,
        -- unix seconds
        published_at REAL NOT NULL,
        -- a JSON object, name to number
        metrics TEXT NOT NULL,
        -- 1 where a person has said that it is to stay
        pinned INTEGER NOT NULL,
        -- of what a rollback published: the version that had its content first; NULL for what was exported
        restores INTEGER,
        -- unix seconds; since when it is not good: a rollback went back behind it, or could not publish it once more
        withdrawn_at REAL,
        -- unix seconds; NULL while it is there
        removed_at REAL,
        PRIMARY KEY (model, export_dir)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO versions
        SELECT model, max(version), export_dir, '', row_number() OVER (PARTITION BY model ORDER BY min(id)),
            max(updated_at), '{}', 0, NULL, NULL, NULL
        FROM jobs WHERE state = 'published' AND version IS NOT NULL AND length(export_dir) > 0
        GROUP BY model, export_dir;
    """,
    """
    -- How far each reader that is told of moves has come, by its name: a notifier of the configuration. A reader that is new begins at
    -- the newest move; one that the configuration no longer has is forgotten. Written after a delivery: a crash between the two
    -- has it delivered once more.
    CREATE TABLE readers (
        name TEXT PRIMARY KEY,
        -- the last move that it is done with
        seq INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    """
    -- What the last commit that began was to publish: a JSON array of the draft's identity, which a rename keeps, and its metrics;
    -- '' before there was one. Written with the move to 'committing', so before the rename: after a crash a version directory of
    -- that identity is this job's, whatever has become of its source. Once it is published: what was.
    ALTER TABLE jobs ADD COLUMN publication TEXT NOT NULL DEFAULT '';
    """,
    """
    -- which content lay at source when the job was accepted, also where the identity is that of a request; '' where that is not known:
    -- then whatever lies there is exported
    ALTER TABLE jobs ADD COLUMN content TEXT NOT NULL DEFAULT '';
    """,
)
