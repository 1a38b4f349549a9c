//! When the next request may be sent, shared by all processes that send with one
//! key to one host.
//!
//! One row for each key and host, and one atomic statement for each slot: the
//! generic cell rate algorithm, whose only memory is when the slot before was.
//! Nobody holds a lock, so nobody who dies holds one; a slot that its taker did
//! not use is gone, and nothing else. Times are of the clock that counts from
//! the start of the machine, also through sleep, so that setting the clock does
//! not matter; after a restart the rows are others.

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::store::schema::Kind;
use crate::store::{database, trouble};

/// What all processes of a user share besides the cache: "gptS".
static STATE: Kind = Kind {
    noun: "state file",
    application: 0x6770_7453,
    steps: &STEPS,
    rehearse,
};

/// What leads from each version of the file to the next. Times are microseconds of the machine's
/// own clock.
const STEPS: [&str; 1] = ["
    CREATE TABLE slot (
        id BLOB PRIMARY KEY,
        boot BLOB NOT NULL,            -- the start of the machine that the times count from
        request INTEGER NOT NULL,      -- the slot that was taken last
        request_spacing INTEGER NOT NULL,
        tokens INTEGER NOT NULL,       -- when all tokens that were taken have had their time
        token_spacing INTEGER NOT NULL, -- a thousand tokens' time
        closed INTEGER NOT NULL        -- until when the server wants to be left alone
    ) STRICT, WITHOUT ROWID;
"];

/// Takes a slot. Where another rate was in force, what is still to come is rescaled: a change of
/// the rate must not leave anybody waiting for what the old one had reserved.
const TAKE: &str = "
    INSERT INTO slot VALUES (?1, ?2, now() - ?6, ?3, now() + ?4, ?5, 0)
    ON CONFLICT (id) DO UPDATE SET
        request = max(
            now() - ?6,
            closed,
            ?3 + CASE WHEN request_spacing = ?3 OR request <= max(now(), closed) THEN request
                 ELSE max(now(), closed)
                     + (request - max(now(), closed)) * ?3 / max(request_spacing, 1) END
        ),
        tokens = ?4 + max(
            now(),
            closed,
            CASE WHEN token_spacing = ?5 OR tokens <= max(now(), closed) THEN tokens
            ELSE max(now(), closed)
                + (tokens - max(now(), closed)) * ?5 / max(token_spacing, 1) END
        ),
        request_spacing = ?3,
        token_spacing = ?5
    RETURNING max(request, tokens - ?4, closed) - now()";

const CLOSE: &str = "
    INSERT INTO slot VALUES (?1, ?2, 0, 0, 0, 0, now() + ?3)
    ON CONFLICT (id) DO UPDATE SET closed = max(closed, now() + ?3)";

const CLOSED: &str = "SELECT closed - now() FROM slot WHERE id = ?1";

const SETTLE: &str = "UPDATE slot SET tokens = tokens + ?2 WHERE id = ?1";

/// What a slot costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Time from one request to the next; zero for no limit.
    pub spacing: Duration,
    /// How far ahead of its slot a request may be.
    pub tolerance: Duration,
    /// Time of the request's tokens; zero for no limit.
    pub tokens: Duration,
    /// Time of a thousand tokens, to notice that the rate changed.
    pub token_spacing: Duration,
}

/// The slots of one key and host.
#[derive(Debug)]
pub struct Slots {
    connection: Connection,
    id: [u8; 32],
    boot: [u8; 32],
}

impl Slots {
    /// Opens the file that all processes share; what comes with it is a warning. `name` says whose
    /// slots they are, and for which host.
    ///
    /// # Errors
    /// That it cannot be used, in the words of a warning.
    pub fn open(path: &Path, name: &[u8; 32]) -> Result<(Self, Option<String>), String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = now.map_or(0, |now| now.as_secs()).cast_signed();
        let opened = database::open(&STATE, path, false, seconds)?;
        let slots = Self::on(opened.connection, name)
            .map_err(|error| trouble::Refusal::from(error).words(&STATE, path))?;
        Ok((slots, opened.warning))
    }

    /// Slots that no other process sees.
    ///
    /// # Errors
    /// Where there is no memory.
    pub fn alone(name: &[u8; 32]) -> Result<Self, String> {
        let failed = |_| "there is no memory for the rate limit".to_owned();
        let connection = database::connect_memory(&STATE).map_err(failed)?;
        Self::on(connection, name).map_err(|_| "the rate limit cannot be kept".to_owned())
    }

    fn on(connection: Connection, name: &[u8; 32]) -> rusqlite::Result<Self> {
        add_clock(&connection)?;
        let boot = *blake3::hash(boot_id().as_bytes()).as_bytes();
        let mut hasher = blake3::Hasher::new_derive_key("gptpipe 2026-11 slot");
        hasher.update(name);
        hasher.update(&boot);
        let id = *hasher.finalize().as_bytes();
        // Times of another start mean nothing any more.
        connection.execute("DELETE FROM slot WHERE boot <> ?1", [boot])?;
        Ok(Self {
            connection,
            id,
            boot,
        })
    }

    /// Takes the next slot; says how long it is until then.
    ///
    /// # Errors
    /// SQLite's, in a few words.
    pub fn take(&self, cost: Cost) -> Result<Duration, String> {
        self.run(|connection| {
            connection.prepare_cached(TAKE)?.query_row(
                params![
                    self.id,
                    self.boot,
                    micros(cost.spacing),
                    micros(cost.tokens),
                    micros(cost.token_spacing),
                    micros(cost.tolerance),
                ],
                |row| row.get::<_, i64>(0),
            )
        })
        .map(duration)
    }

    /// Nobody sends anything for so long from now.
    ///
    /// # Errors
    /// SQLite's, in a few words.
    pub fn close(&self, wait: Duration) -> Result<(), String> {
        self.run(|connection| {
            connection
                .prepare_cached(CLOSE)?
                .execute(params![self.id, self.boot, micros(wait)])
        })
        .map(drop)
    }

    /// How long nobody sends anything.
    ///
    /// # Errors
    /// SQLite's, in a few words.
    pub fn closed(&self) -> Result<Duration, String> {
        self.run(|connection| {
            connection
                .prepare_cached(CLOSED)?
                .query_row([self.id], |row| row.get::<_, i64>(0))
                .optional()
        })
        .map(|wait| duration(wait.unwrap_or(0)))
    }

    /// Takes back the time of tokens that were not used, or adds that of more that were.
    ///
    /// # Errors
    /// SQLite's, in a few words.
    pub fn settle(&self, taken: Duration, used: Duration) -> Result<(), String> {
        let more = micros(used) - micros(taken);
        self.run(|connection| {
            connection
                .prepare_cached(SETTLE)?
                .execute(params![self.id, more])
        })
        .map(drop)
    }

    fn run<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, String> {
        work(&self.connection).map_err(|error| trouble::reason(&error))
    }
}

/// Prepares what is asked often, and so finds out whether the tables are right.
fn rehearse(connection: &Connection) -> rusqlite::Result<()> {
    add_clock(connection)?;
    for statement in [TAKE, CLOSE, CLOSED, SETTLE] {
        connection.prepare_cached(statement)?;
    }
    Ok(())
}

/// Makes the time known to statements. It is asked while the statement alone may write, so that
/// waiting for other processes does not make it old.
fn add_clock(connection: &Connection) -> rusqlite::Result<()> {
    connection.create_scalar_function("now", 0, FunctionFlags::SQLITE_UTF8, |_| Ok(machine_time()))
}

/// Microseconds since the machine started.
#[cfg(target_os = "linux")]
fn machine_time() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec
        .saturating_mul(1_000_000)
        .saturating_add(time.tv_nsec / 1000)
}

/// Microseconds since 1970; where no clock counts from the start for all processes alike.
#[cfg(not(target_os = "linux"))]
fn machine_time() -> i64 {
    static BEGAN: OnceLock<(std::time::Instant, i64)> = OnceLock::new();
    let (began, at) = BEGAN.get_or_init(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| i64::try_from(now.as_micros()).unwrap_or(i64::MAX));
        (std::time::Instant::now(), now)
    });
    at.saturating_add(micros(began.elapsed()))
}

/// What tells one start of the machine from another (random(4)). Time that is counted from 1970 needs
/// nothing of the kind.
fn boot_id() -> String {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        if !cfg!(target_os = "linux") {
            return String::new();
        }
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
    })
    .clone()
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4)
}

fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn cost(spacing: Duration) -> Cost {
        Cost {
            spacing,
            ..Cost::default()
        }
    }

    #[track_caller]
    fn near(wait: Duration, expected: Duration) {
        let off = wait.abs_diff(expected);
        assert!(off < 400 * MS, "{wait:?} is not about {expected:?}");
    }

    #[test]
    fn slots_are_evenly_spaced_from_the_first_on() {
        let slots = Slots::alone(&[1; 32]).unwrap();
        for number in 0..5 {
            near(slots.take(cost(1000 * MS)).unwrap(), number * 1000 * MS);
        }
    }

    #[test]
    fn a_burst_comes_at_once_and_then_the_spacing_holds() {
        let slots = Slots::alone(&[1; 32]).unwrap();
        let burst = Cost {
            tolerance: 3000 * MS,
            ..cost(1000 * MS)
        };
        let waits: Vec<Duration> = (0..6).map(|_| slots.take(burst).unwrap()).collect();
        assert!(waits[..3].iter().all(Duration::is_zero), "{waits:?}");
        near(waits[4], 1000 * MS);
        near(waits[5], 2000 * MS);
    }

    #[test]
    fn a_changed_rate_holds_at_once() {
        let slots = Slots::alone(&[1; 32]).unwrap();
        for _ in 0..3 {
            slots.take(cost(Duration::from_hours(1))).unwrap();
        }
        // Two hours that were taken at the old rate are two hundredths of a second at the new one.
        near(slots.take(cost(10 * MS)).unwrap(), 30 * MS);
        let slots = Slots::alone(&[1; 32]).unwrap();
        slots.take(cost(10 * MS)).unwrap();
        near(slots.take(cost(5000 * MS)).unwrap(), 5000 * MS);
    }

    #[test]
    fn tokens_have_their_own_time_and_are_settled() {
        let slots = Slots::alone(&[1; 32]).unwrap();
        let tokens = |time| Cost {
            tokens: time,
            token_spacing: 1000 * MS,
            ..Cost::default()
        };
        near(slots.take(tokens(4000 * MS)).unwrap(), Duration::ZERO);
        near(slots.take(tokens(2000 * MS)).unwrap(), 4000 * MS);
        slots.settle(2000 * MS, 500 * MS).unwrap();
        near(slots.take(tokens(1000 * MS)).unwrap(), 4500 * MS);
    }

    #[test]
    fn while_it_is_closed_nobody_has_a_slot() {
        let slots = Slots::alone(&[1; 32]).unwrap();
        assert_eq!(slots.closed(), Ok(Duration::ZERO));
        slots.close(5000 * MS).unwrap();
        slots.close(1000 * MS).unwrap();
        near(slots.closed().unwrap(), 5000 * MS);
        near(slots.take(cost(100 * MS)).unwrap(), 5000 * MS);
        near(slots.take(cost(2000 * MS)).unwrap(), 7000 * MS);
        near(slots.take(cost(2000 * MS)).unwrap(), 9000 * MS);
    }

    #[test]
    fn processes_share_the_slots_of_a_name_and_no_others() {
        let folder = std::env::temp_dir().join(format!("gptpipe-slots-{}", std::process::id()));
        let path = folder.join("gptpipe/state.db");
        let open = |name: u8| Slots::open(&path, &[name; 32]).unwrap().0;
        let waits: Vec<Duration> = (0..4)
            .map(|_| open(1).take(cost(1000 * MS)).unwrap())
            .collect();
        near(waits[3], 3000 * MS);
        near(open(2).take(cost(1000 * MS)).unwrap(), Duration::ZERO);
        // Whoever takes one leaves nothing behind that another could wait for.
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let slots = open(3);
                    for _ in 0..20 {
                        slots.take(cost(MS)).unwrap();
                    }
                });
            }
        });
        std::fs::remove_dir_all(folder).unwrap();
    }
}
