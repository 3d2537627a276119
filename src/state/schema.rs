//! The tables of format 1, as SQLite keeps their text.

/// The format that this version reads and writes.
pub(super) const FORMAT: i64 = 1;
/// Marks the file as ours for tools such as `file`: the letters "Port".
pub(super) const APPLICATION: i64 = 0x506f_7274;
/// Bytes of a page.
pub(super) const PAGE: i64 = 4096;

/// Tables that are small beside the journal and snapshots: checked whole at every opening.
pub(super) const CHECKED_AT_OPEN: [&str; 8] =
    ["meta", "head", "dictionaries", "snapshots", "decisions", "actions", "cursors", "positions"];

/// Names and statements. The texts are compared at opening, so a change of one is a new format.
pub(super) const OBJECTS: [(&str, &str); 14] = [
    (
        "meta",
        "CREATE TABLE meta (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  format INTEGER NOT NULL,
  created TEXT NOT NULL, -- wall time
  version TEXT NOT NULL, -- of the Portcullis that made the database
  checksum INTEGER NOT NULL
) STRICT",
    ),
    (
        "head",
        "CREATE TABLE head (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  commits INTEGER NOT NULL, -- so far
  journal INTEGER NOT NULL, -- the last row
  actions_from INTEGER NOT NULL, -- the first action that is kept
  actions INTEGER NOT NULL, -- the last one
  decisions_sum INTEGER NOT NULL, -- of the checksums of all rows, as the other sums
  positions_sum INTEGER NOT NULL,
  cursors_sum INTEGER NOT NULL,
  checksum INTEGER NOT NULL
) STRICT",
    ),
    (
        "dictionaries",
        "CREATE TABLE dictionaries (
  id INTEGER PRIMARY KEY,
  text TEXT NOT NULL,
  made TEXT NOT NULL, -- wall time
  checksum INTEGER NOT NULL
) STRICT",
    ),
    (
        "journal",
        "CREATE TABLE journal (
  id INTEGER PRIMARY KEY, -- without a gap
  made TEXT NOT NULL, -- wall time
  dictionary INTEGER NOT NULL,
  events INTEGER NOT NULL,
  checksum INTEGER NOT NULL,
  entries BLOB NOT NULL
) STRICT",
    ),
    (
        "snapshots",
        "CREATE TABLE snapshots (
  id INTEGER PRIMARY KEY,
  journal INTEGER NOT NULL, -- the last row that it contains
  dictionary INTEGER NOT NULL,
  events INTEGER NOT NULL,
  keys INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  stored INTEGER NOT NULL, -- bytes of the parts
  parts INTEGER NOT NULL,
  sha256 TEXT NOT NULL, -- of the content
  made TEXT NOT NULL, -- wall time
  checksum INTEGER NOT NULL
) STRICT",
    ),
    (
        "snapshot_parts",
        "CREATE TABLE snapshot_parts (
  snapshot INTEGER NOT NULL, -- unfinished until this is a row of snapshots
  part INTEGER NOT NULL, -- from 0
  content BLOB NOT NULL, -- a frame of zstd
  PRIMARY KEY (snapshot, part)
) STRICT",
    ),
    (
        "decisions",
        "CREATE TABLE decisions (
  id TEXT PRIMARY KEY, -- of its start
  pack TEXT NOT NULL,
  rule TEXT NOT NULL,
  mode TEXT NOT NULL,
  action TEXT NOT NULL,
  kind TEXT NOT NULL,
  value TEXT,
  started INTEGER NOT NULL, -- microseconds since 1970, as the other times
  until INTEGER,
  ended INTEGER, -- null while it is active
  crossings INTEGER,
  checksum INTEGER NOT NULL
) STRICT, WITHOUT ROWID",
    ),
    ("decisions_ended", "CREATE INDEX decisions_ended ON decisions (ended)"),
    ("decisions_started", "CREATE INDEX decisions_started ON decisions (started)"),
    (
        "actions",
        "CREATE TABLE actions (
  seq INTEGER PRIMARY KEY, -- without a gap
  id TEXT NOT NULL,
  time INTEGER NOT NULL,
  op TEXT NOT NULL,
  line TEXT NOT NULL,
  checksum INTEGER NOT NULL
) STRICT",
    ),
    ("actions_id", "CREATE INDEX actions_id ON actions (id)"),
    (
        "cursors",
        "CREATE TABLE cursors (
  sink TEXT PRIMARY KEY,
  seq INTEGER NOT NULL, -- the last action that it has finished
  checksum INTEGER NOT NULL
) STRICT, WITHOUT ROWID",
    ),
    (
        "positions",
        "CREATE TABLE positions (
  source INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  position TEXT NOT NULL, -- JSON
  checksum INTEGER NOT NULL
) STRICT",
    ),
    (
        "active",
        "CREATE VIEW active AS SELECT id, rule, mode, action, kind, value,
  strftime('%Y-%m-%dT%H:%M:%SZ', started / 1000000, 'unixepoch') AS started,
  strftime('%Y-%m-%dT%H:%M:%SZ', until / 1000000, 'unixepoch') AS until
  FROM decisions WHERE ended IS NULL",
    ),
];
