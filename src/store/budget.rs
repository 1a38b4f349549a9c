//! What all processes of a user may spend together, by day and month (UTC).
//!
//! A request's bound is reserved before it is sent, by one statement that holds
//! the sum against the budget, and what it came to takes its place. What costs
//! nothing, or was paid for before, is never refused. A holder that is gone does
//! not renew its reservation: then only what the request cost at least stays spent.
//! What a run without a budget spends is counted when its journal is taken over,
//! and so before the first request of one that has a budget.

use rusqlite::{OptionalExtension as _, Transaction, TransactionBehavior, named_params};

use crate::store::ledger::{Ledger, now};

/// Seconds until a reservation that is not renewed expires.
pub const LEASE: i64 = 30;

const RESERVE: &str = "
    INSERT INTO reservation (day, month, amount, least, expires)
    SELECT :day, :month, :amount, :least, unixepoch() + :lease
    WHERE :amount = 0 OR (:day_budget IS NULL OR :day_budget >= :amount
            + ifnull((SELECT amount FROM spent WHERE period = :day), 0)
            + ifnull((SELECT sum(amount) FROM reservation WHERE day = :day), 0))
        AND (:month_budget IS NULL OR :month_budget >= :amount
            + ifnull((SELECT amount FROM spent WHERE period = :month), 0)
            + ifnull((SELECT sum(amount) FROM reservation WHERE month = :month), 0))
    RETURNING id";

pub(super) const SPEND: &str = "INSERT INTO spent VALUES (?1, ?2)
    ON CONFLICT (period) DO UPDATE SET amount = amount + excluded.amount";

/// In billionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budgets {
    /// For a day.
    pub day: Option<i64>,
    /// For a month.
    pub month: Option<i64>,
}

/// What a request holds until it is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    id: i64,
    day: String,
    month: String,
    least: i64,
}

/// What became of a wish to spend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// It may be spent.
    Yes(Reservation),
    /// It may be once others need less than they reserved.
    NotYet,
    /// It is more than what is left; what is spent of which budget.
    No {
        /// `day` or `month`.
        period: &'static str,
        /// What is spent of it.
        spent: i64,
        /// The budget.
        budget: i64,
    },
}

impl Ledger {
    /// Reserves an amount, of which `least` is spent in any case.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn reserve(&self, budgets: Budgets, amount: i64, least: i64) -> Result<Reserved, String> {
        self.try_reserve(budgets, amount, least)
            .map_err(|error| self.words(error))
    }

    fn try_reserve(&self, budgets: Budgets, amount: i64, least: i64) -> rusqlite::Result<Reserved> {
        self.expire()?;
        let (day, month) = periods();
        let id: Option<i64> = self
            .connection
            .prepare_cached(RESERVE)?
            .query_row(
                named_params! {
                    ":day": day, ":month": month, ":amount": amount, ":least": least,
                    ":lease": LEASE, ":day_budget": budgets.day, ":month_budget": budgets.month,
                },
                |row| row.get(0),
            )
            .optional()?;
        if let Some(id) = id {
            return Ok(Reserved::Yes(Reservation {
                id,
                day,
                month,
                least,
            }));
        }
        for (period, name, budget) in [("day", &day, budgets.day), ("month", &month, budgets.month)]
        {
            let spent: Option<i64> = self
                .connection
                .prepare_cached("SELECT amount FROM spent WHERE period = ?1")?
                .query_row([name], |row| row.get(0))
                .optional()?;
            let spent = spent.unwrap_or(0);
            if let Some(budget) = budget.filter(|budget| spent.saturating_add(amount) > *budget) {
                return Ok(Reserved::No {
                    period,
                    spent,
                    budget,
                });
            }
        }
        Ok(Reserved::NotYet)
    }

    /// Keeps reservations for longer.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn renew(&self, reservations: &[Reservation]) -> Result<(), String> {
        for reservation in reservations {
            self.connection
                .prepare_cached("UPDATE reservation SET expires = unixepoch() + ?2 WHERE id = ?1")
                .and_then(|mut statement| statement.execute([reservation.id, LEASE]))
                .map_err(|error| self.words(error))?;
        }
        Ok(())
    }

    /// Puts what was used into the place of what was reserved.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn settle(&self, reservation: &Reservation, used: i64) -> Result<(), String> {
        self.try_settle(reservation, used)
            .map_err(|error| self.words(error))
    }

    fn try_settle(&self, reservation: &Reservation, used: i64) -> rusqlite::Result<()> {
        let transaction =
            Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        let was_there = transaction
            .prepare_cached("DELETE FROM reservation WHERE id = ?1")?
            .execute([reservation.id])?;
        // One that expired has been settled with the least.
        let used = if was_there == 1 {
            used
        } else {
            used - reservation.least
        };
        for period in [&reservation.day, &reservation.month] {
            transaction.prepare_cached(SPEND)?.execute((period, used))?;
        }
        transaction.commit()
    }

    /// Settles what nobody renews any more.
    fn expire(&self) -> rusqlite::Result<()> {
        let find = "SELECT 1 FROM reservation WHERE expires < unixepoch() LIMIT 1";
        let is_any = self.connection.prepare_cached(find)?.exists([])?;
        if !is_any {
            return Ok(());
        }
        let transaction =
            Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        let expired: Vec<(String, String, i64)> = transaction
            .prepare(
                "DELETE FROM reservation WHERE expires < unixepoch() RETURNING day, month, least",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for (day, month, least) in expired {
            for period in [day, month] {
                transaction.execute(SPEND, (period, least))?;
            }
        }
        transaction.commit()
    }
}

/// The day and the month that it is, in UTC: `2026-11-25` and `2026-11`.
fn periods() -> (String, String) {
    let seconds = u64::try_from(now() / 1_000_000).unwrap_or(0);
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let text = humantime::format_rfc3339_seconds(time).to_string();
    let part = |length| text.get(..length).unwrap_or_default().to_owned();
    (part(10), part(7))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::journal::{Ended, Journal, Line, Run, Started};

    const DAY: Budgets = Budgets {
        day: Some(100),
        month: None,
    };

    fn with_ledger(name: &str, test: impl Fn(&(dyn Fn() -> Ledger + Sync))) {
        let name = format!("gptpipe-budget-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let open = || {
            let path = folder.join("gptpipe/ledger.db");
            Ledger::open(&path, &folder.join("journals")).unwrap().0
        };
        test(&open);
        std::fs::remove_dir_all(folder).unwrap();
    }

    fn yes(reserved: Reserved) -> Reservation {
        match reserved {
            Reserved::Yes(reservation) => reservation,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_reserved_counts_until_it_is_settled() {
        with_ledger("settle", |open| {
            let ledger = open();
            ledger.begin_budget().unwrap();
            let first = yes(ledger.reserve(DAY, 60, 1).unwrap());
            assert_eq!(ledger.reserve(DAY, 60, 1), Ok(Reserved::NotYet));
            let second = yes(ledger.reserve(DAY, 40, 1).unwrap());
            ledger.settle(&first, 10).unwrap();
            ledger.settle(&second, 35).unwrap();
            assert_eq!(
                ledger.reserve(DAY, 60, 1),
                Ok(Reserved::No {
                    period: "day",
                    spent: 45,
                    budget: 100
                })
            );
            yes(ledger.reserve(DAY, 55, 1).unwrap());
            let month = Budgets {
                day: None,
                month: Some(50),
            };
            assert!(matches!(
                ledger.reserve(month, 6, 1),
                Ok(Reserved::No {
                    period: "month",
                    spent: 45,
                    ..
                })
            ));
        });
    }

    #[test]
    fn of_what_nobody_renews_the_least_stays_spent() {
        with_ledger("lease", |open| {
            let ledger = open();
            ledger.begin_budget().unwrap();
            let lost = yes(ledger.reserve(DAY, 90, 7).unwrap());
            let age = "UPDATE reservation SET expires = unixepoch() - 1";
            ledger.connection.execute(age, []).unwrap();
            let next = yes(ledger.reserve(DAY, 93, 0).unwrap());
            ledger.settle(&next, 0).unwrap();
            // Its holder was only slow: the rest is added.
            ledger.settle(&lost, 30).unwrap();
            let rest = ledger.reserve(DAY, 71, 0).unwrap();
            assert!(matches!(rest, Reserved::No { spent: 30, .. }), "{rest:?}");
        });
    }

    #[test]
    fn many_at_once_never_reserve_more_than_there_is() {
        with_ledger("many", |open| {
            open().begin_budget().unwrap();
            let granted = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| {
                            let ledger = open();
                            (0..20)
                                .filter(|_| {
                                    let reserved = ledger.reserve(DAY, 3, 0).unwrap();
                                    matches!(reserved, Reserved::Yes(_))
                                })
                                .count()
                        })
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|t| t.join().unwrap())
                    .sum::<usize>()
            });
            assert_eq!(granted, 33);
        });
    }

    #[test]
    fn what_costs_nothing_is_granted_when_nothing_is_left() {
        with_ledger("nothing", |open| {
            let ledger = open();
            let all = yes(ledger.reserve(DAY, 100, 0).unwrap());
            ledger.settle(&all, 120).unwrap();
            let none = yes(ledger.reserve(DAY, 0, 0).unwrap());
            ledger.settle(&none, 7).unwrap();
            let rest = ledger.reserve(DAY, 1, 0).unwrap();
            assert!(matches!(rest, Reserved::No { spent: 127, .. }), "{rest:?}");
        });
    }

    #[test]
    fn what_runs_without_a_budget_spent_counts_once_whoever_looks() {
        with_ledger("before", |open| {
            let folder = open().folder;
            let begin = |number: i64, is_counted| {
                let run = Run {
                    name: format!("run-{number}"),
                    time: now() + number,
                    is_counted,
                    ..Run::default()
                };
                Journal::create(&folder, &run).unwrap()
            };
            let spend = |journal: &mut Journal, number, cost| {
                let started = Started {
                    number,
                    time: now(),
                    is_sent: true,
                    ..Started::default()
                };
                let ended = Ended {
                    number,
                    outcome: "ok".to_owned(),
                    cost: Some(cost),
                    ..Ended::default()
                };
                let lines = Line::Start(started).text() + &Line::End(ended).text();
                journal.append(&lines).unwrap();
            };
            for number in 0..10 {
                spend(&mut begin(number, false), 0, 3);
            }
            let mut live = begin(10, false);
            spend(&mut live, 0, 5);
            // Its own run settles what it spends.
            let mut counted = begin(11, true);
            spend(&mut counted, 0, 1000);
            let look = || {
                std::thread::scope(|scope| {
                    for _ in 0..8 {
                        scope.spawn(|| open().begin_budget().unwrap());
                    }
                });
                match open().reserve(DAY, 101, 0).unwrap() {
                    Reserved::No { spent, .. } => spent,
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(look(), 35);
            spend(&mut live, 1, 7);
            assert_eq!(look(), 42);
            assert_eq!(look(), 42);
            open().take_over(std::time::Duration::MAX).unwrap();
            drop((live, counted));
            assert_eq!(look(), 42);
        });
    }
}
