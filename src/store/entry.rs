//! An entry and its row: what is written, what is read back, and how a damaged row is told.
//!
//! Every row carries a check sum of its key and of all that was stored with it. A row that does not
//! match is damaged and no entry: whatever happens to the file, a key never gets a reply that was
//! not stored for it.

use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Row, params};

use crate::api::reply::{Finish, Reply, Usage};

/// What identifies an entry: a hash of all that determines the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub [u8; 32]);

impl Key {
    /// The number of the entry's row. Keys that share it take each other's place.
    pub(super) fn id(&self) -> i64 {
        // There are 32 bytes.
        let first = self.0.first_chunk().copied().unwrap_or_default();
        i64::from_be_bytes(first)
    }
}

/// What is remembered of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Its whole reply; the server's name for it is not kept.
    Reply(Reply),
    /// It was too long, and is asked about in two.
    Split {
        /// Where its first part ends, in bytes.
        end: usize,
        /// Where its second part begins, in bytes.
        start: usize,
    },
}

impl Entry {
    /// Whether it may be remembered: a reply that was cut is never passed off as whole.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Reply(reply) => matches!(reply.finish, Finish::Stop | Finish::Done),
            Self::Split { .. } => true,
        }
    }

    /// What it takes in the file, in bytes, roughly.
    pub(super) fn bytes(&self) -> u64 {
        /// The columns of fixed size in both tables.
        const FIXED: usize = 160;
        let text = match self {
            Self::Reply(reply) => reply.text.len() + reply.model.as_ref().map_or(0, String::len),
            Self::Split { .. } => 0,
        };
        (FIXED + text) as u64
    }
}

/// An entry as it was found, with the times that decide about its use, in microseconds since 1970.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) entry: Entry,
    /// The number of its body.
    pub(super) body: i64,
    pub(super) stored: i64,
    pub(super) used: i64,
    pub(super) expires: i64,
}

/// What a row turned out to be.
#[derive(Debug)]
pub(super) enum Read {
    Found(Found),
    /// It belongs to another key with the same number.
    Other,
    Damaged,
}

/// Reads the row of a key.
const SELECT: &str = "SELECT b.key, b.stored, b.text, b.model, b.finish, b.prompt_tokens,
    b.completion_tokens, b.cached_tokens, b.split_end, b.split_start, b.sum, e.body, e.used,
    e.expires
    FROM entry e CROSS JOIN body b ON b.id = e.body WHERE e.id = ?1";

/// Reads rows, with a statement that is prepared once.
pub(super) struct Reader<'c>(CachedStatement<'c>);

impl<'c> Reader<'c> {
    pub(super) fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached(SELECT).map(Self)
    }

    /// Looks for the row of a key; none is a miss.
    pub(super) fn read(&mut self, key: &Key) -> rusqlite::Result<Option<Read>> {
        let mut rows = self.0.query([key.id()])?;
        match rows.next()? {
            Some(row) => Ok(Some(judge(row, key)?)),
            None => Ok(None),
        }
    }
}

fn judge(row: &Row<'_>, key: &Key) -> rusqlite::Result<Read> {
    let ValueRef::Blob(row_key) = row.get_ref(0)? else {
        return Ok(Read::Damaged);
    };
    let Ok(row_key) = <[u8; 32]>::try_from(row_key).map(Key) else {
        return Ok(Read::Damaged);
    };
    if row_key != *key && row_key.id() == key.id() {
        return Ok(Read::Other);
    }
    let (Some(content), Some(stored)) = (Content::of_row(row)?, integer_at(row, 1)?) else {
        return Ok(Read::Damaged);
    };
    if row.get_ref(10)? != ValueRef::Blob(&content.sum(key, stored)) {
        return Ok(Read::Damaged);
    }
    let times = (
        integer_at(row, 11)?,
        integer_at(row, 12)?,
        integer_at(row, 13)?,
    );
    let (Some(entry), (Some(body), Some(used), Some(expires))) = (content.entry(), times) else {
        return Ok(Read::Damaged);
    };
    Ok(Read::Found(Found {
        entry,
        body,
        stored,
        used,
        expires,
    }))
}

/// Writes an entry in place of what its key has; within a transaction.
pub(super) fn write(
    connection: &Connection,
    key: &Key,
    entry: &Entry,
    stored: i64,
    expires: i64,
) -> rusqlite::Result<()> {
    let id = key.id();
    let old: Option<i64> = connection
        .prepare_cached("SELECT body FROM entry WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    if let Some(old) = old {
        connection
            .prepare_cached("DELETE FROM body WHERE id = ?1")?
            .execute([old])?;
    }
    let content = Content::of(entry);
    let sum = content.sum(key, stored);
    let columns = content.columns();
    connection
        .prepare_cached(
            "INSERT INTO body (key, stored, text, model, finish, prompt_tokens, completion_tokens,
             cached_tokens, split_end, split_start, sum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            key.0,
            stored,
            columns.text,
            columns.model,
            columns.finish,
            columns.usage.map(|usage| usage[0]),
            columns.usage.map(|usage| usage[1]),
            columns.usage.map(|usage| usage[2]),
            columns.split.map(|split| split.0),
            columns.split.map(|split| split.1),
            sum,
        ])?;
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO entry (id, body, stored, used, expires, bytes, is_split)
             VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            id,
            connection.last_insert_rowid(),
            stored,
            expires,
            entry.bytes().cast_signed(),
            i64::from(matches!(entry, Entry::Split { .. })),
        ])?;
    Ok(())
}

/// Notes that an entry was used, unless another took its place meanwhile.
pub(super) fn mark(
    connection: &Connection,
    id: i64,
    body: i64,
    used: i64,
    expires: i64,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE entry SET used = max(used, ?3), expires = max(expires, ?4)
             WHERE id = ?1 AND body = ?2",
        )?
        .execute([id, body, used, expires])?;
    Ok(())
}

/// Prepares every statement that a run needs; fails where the tables are not as they should be.
pub(super) fn rehearse(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached(SELECT).map(drop)
}

/// What the check sum covers, borrowed from an entry or from a row.
#[derive(Clone, Copy, Debug)]
enum Content<'a> {
    Reply {
        text: &'a str,
        model: Option<&'a str>,
        finish: i64,
        usage: Option<[i64; 3]>,
    },
    Split {
        end: i64,
        start: i64,
    },
}

/// The same as columns of a row.
#[derive(Debug, Default)]
struct Columns<'a> {
    text: Option<&'a str>,
    model: Option<&'a str>,
    finish: Option<i64>,
    usage: Option<[i64; 3]>,
    split: Option<(i64, i64)>,
}

impl<'a> Content<'a> {
    fn of(entry: &'a Entry) -> Self {
        match entry {
            Entry::Reply(reply) => Self::Reply {
                text: &reply.text,
                model: reply.model.as_deref(),
                finish: finish_number(reply.finish),
                usage: reply.usage.map(|usage| {
                    [
                        usage.prompt_tokens.cast_signed(),
                        usage.completion_tokens.cast_signed(),
                        usage.cached_tokens.cast_signed(),
                    ]
                }),
            },
            Entry::Split { end, start } => Self::Split {
                end: (*end as u64).cast_signed(),
                start: (*start as u64).cast_signed(),
            },
        }
    }

    /// None: no row that was ever written looks like this.
    fn of_row(row: &'a Row<'_>) -> rusqlite::Result<Option<Self>> {
        if let (Some(end), Some(start)) = (integer_at(row, 8)?, integer_at(row, 9)?) {
            return Ok(Some(Self::Split { end, start }));
        }
        let (Some(text), Some(finish)) = (text_at(row, 2)?, integer_at(row, 4)?) else {
            return Ok(None);
        };
        let usage = match (
            integer_at(row, 5)?,
            integer_at(row, 6)?,
            integer_at(row, 7)?,
        ) {
            (Some(prompt), Some(completion), Some(cached)) => Some([prompt, completion, cached]),
            _ => None,
        };
        Ok(Some(Self::Reply {
            text,
            model: text_at(row, 3)?,
            finish,
            usage,
        }))
    }

    fn columns(self) -> Columns<'a> {
        match self {
            Self::Reply {
                text,
                model,
                finish,
                usage,
            } => Columns {
                text: Some(text),
                model,
                finish: Some(finish),
                usage,
                split: None,
            },
            Self::Split { end, start } => Columns {
                split: Some((end, start)),
                ..Columns::default()
            },
        }
    }

    /// Lengths and presence are part of what is summed, so that no two contents look the same.
    fn sum(self, key: &Key, stored: i64) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        let mut fixed = [0u8; 96];
        let numbers = match self {
            Self::Reply {
                text,
                model,
                finish,
                usage,
            } => {
                let [prompt, completion, cached] = usage.unwrap_or_default();
                let tag = 1 + 2 * i64::from(usage.is_some()) + 4 * i64::from(model.is_some());
                let lengths = (text.len() as u64, model.map_or(0, str::len) as u64);
                [
                    tag | finish << 8,
                    prompt,
                    completion,
                    cached,
                    lengths.0.cast_signed(),
                    lengths.1.cast_signed(),
                ]
            }
            Self::Split { end, start } => [0, end, start, 0, 0, 0],
        };
        let values = [stored, 0].into_iter().chain(numbers);
        for (place, value) in fixed.chunks_exact_mut(8).skip(4).zip(values) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        if let Some(place) = fixed.first_chunk_mut::<32>() {
            *place = key.0;
        }
        hasher.update(&fixed);
        if let Self::Reply { text, model, .. } = self {
            hasher.update(model.unwrap_or_default().as_bytes());
            hasher.update(text.as_bytes());
        }
        let mut sum = [0; 16];
        hasher.finalize_xof().fill(&mut sum);
        sum
    }

    fn entry(self) -> Option<Entry> {
        Some(match self {
            Self::Reply {
                text,
                model,
                finish,
                usage,
            } => Entry::Reply(Reply {
                text: text.to_owned(),
                finish: finish_of(finish)?,
                usage: usage.map(|[prompt, completion, cached]| Usage {
                    prompt_tokens: prompt.cast_unsigned(),
                    completion_tokens: completion.cast_unsigned(),
                    cached_tokens: cached.cast_unsigned(),
                }),
                model: model.map(str::to_owned),
                id: None,
                refill: None,
            }),
            Self::Split { end, start } => Entry::Split {
                end: usize::try_from(end).ok()?,
                start: usize::try_from(start).ok()?,
            },
        })
    }
}

/// The numbers stand in files and never change their meaning.
fn finish_number(finish: Finish) -> i64 {
    match finish {
        Finish::Stop => 1,
        Finish::Done => 2,
        Finish::Length => 3,
        Finish::Filtered => 4,
        Finish::Refused => 5,
        Finish::ToolCalls => 6,
        Finish::Failed => 7,
        Finish::Unknown => 8,
    }
}

/// Only what is stored comes back: see [`Entry::is_whole`].
fn finish_of(number: i64) -> Option<Finish> {
    match number {
        1 => Some(Finish::Stop),
        2 => Some(Finish::Done),
        _ => None,
    }
}

fn integer_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<i64>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(value) => Some(value),
        _ => None,
    })
}

fn text_at<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<Option<&'a str>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    })
}
