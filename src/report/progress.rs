//! The line that people watch while a run goes on.
//!
//! indicatif draws it on standard error, and only where that is a terminal.
//! `always` also tells a log how far things are, in plain lines now and then.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::neighbours;
use crate::report::price::dollars;

/// When to show progress.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProgressMode {
    /// On a terminal, until output appears on the same one.
    Auto,
    /// Also in plain lines where standard error is no terminal, and also with `-q`.
    Always,
    /// Not at all.
    Never,
}

/// What standard output and standard error are.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Standard error is a terminal that can move its cursor.
    pub is_stderr_terminal: bool,
    /// Standard output is a terminal.
    pub is_stdout_terminal: bool,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    /// Chunks whose replies are written.
    pub done: u64,
    /// Chunks cut so far.
    pub known: u64,
    /// Whether the end of input has been seen, so that `known` is all.
    pub is_all_known: bool,
    /// Requests in flight.
    pub in_flight: usize,
    /// Replies that came out of the cache.
    pub cached: u64,
    /// Tokens that the server counted, in and out.
    pub tokens: u64,
    /// What they cost, in billionths of a US dollar, where that is known.
    pub cost: Option<i64>,
}

/// Time between two lines in a log.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Time between two looks at how far things are, while somebody watches.
pub const UPDATE_EVERY: Duration = Duration::from_millis(100);

/// Time between two frames of the spinner.
const TICK: Duration = Duration::from_millis(120);

/// Time before anything is drawn: what ends at once should not flicker, and by then the other
/// processes of a pipeline have started.
const FIRST_LOOK: Duration = Duration::from_millis(250);

/// Time between two looks at who else uses the terminal.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Lifts the line for the time of a message.
#[derive(Clone, Debug)]
pub struct Curtain(Option<ProgressBar>);

impl Curtain {
    /// Runs `print` with the line out of the way; one that was cleared does not come back.
    pub fn suspend(&self, print: impl FnOnce()) {
        match &self.0 {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// Shows how far a run is.
#[derive(Debug)]
pub struct Progress {
    shown: Shown,
    began: Instant,
    screen: Screen,
}

#[derive(Debug)]
enum Shown {
    Nothing,
    Bar {
        bar: ProgressBar,
        /// Whether it is drawn: another process of the job may have the terminal.
        is_drawn: bool,
        next_look: Instant,
    },
    Lines {
        next: Instant,
    },
}

impl Progress {
    /// Decides what is shown; draws nothing yet.
    #[must_use]
    pub fn new(mode: ProgressMode, is_quiet: bool, screen: Screen) -> Self {
        let began = Instant::now();
        let shown = match mode {
            ProgressMode::Never => Shown::Nothing,
            ProgressMode::Auto if is_quiet || !screen.is_stderr_terminal => Shown::Nothing,
            ProgressMode::Auto | ProgressMode::Always if screen.is_stderr_terminal => Shown::Bar {
                bar: bar(),
                is_drawn: false,
                next_look: began + FIRST_LOOK,
            },
            ProgressMode::Auto | ProgressMode::Always => Shown::Lines {
                next: began + LOG_EVERY,
            },
        };
        Self {
            shown,
            began,
            screen,
        }
    }

    /// Whether anything is shown, so that it is worth looking how far things are.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        !matches!(self.shown, Shown::Nothing)
    }

    /// Tells how far the run is.
    pub fn update(&mut self, snapshot: Snapshot) {
        self.look();
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bar { bar, is_drawn, .. } => {
                if !*is_drawn {
                    return;
                }
                if snapshot.is_all_known && bar.length().is_none() {
                    bar.set_style(style("{spinner} [{bar:24}] {wide_msg}"));
                }
                if snapshot.is_all_known {
                    bar.set_length(snapshot.known);
                    bar.set_position(snapshot.done);
                }
                bar.set_message(line(snapshot, self.began.elapsed()));
            }
            Shown::Lines { next } => {
                if Instant::now() >= *next {
                    *next = Instant::now() + LOG_EVERY;
                    let _ = writeln!(
                        io::stderr(),
                        "gptpipe: {}",
                        line(snapshot, self.began.elapsed())
                    );
                }
            }
        }
    }

    /// Tells in words how far something is that is no matter of chunks; only where a line is drawn.
    pub fn say(&mut self, text: &str) {
        self.look();
        if let Shown::Bar {
            bar,
            is_drawn: true,
            ..
        } = &self.shown
        {
            bar.set_message(text.to_owned());
        }
    }

    /// Looks now and then whether the line may be drawn.
    fn look(&mut self) {
        let Shown::Bar {
            bar,
            is_drawn,
            next_look,
        } = &mut self.shown
        else {
            return;
        };
        let now = Instant::now();
        if now >= *next_look {
            *next_look = now + LOOK_EVERY;
            let may_draw = neighbours::may_draw();
            if *is_drawn != may_draw {
                draw(bar, may_draw);
            }
            *is_drawn = may_draw;
        }
    }

    /// Makes room for output: on a terminal that shows both, what was drawn goes.
    pub fn before_output(&mut self) {
        if self.screen.is_stdout_terminal
            && let Shown::Bar { bar, .. } = &self.shown
        {
            bar.finish_and_clear();
            self.shown = Shown::Nothing;
        }
    }

    /// What lifts the line for whoever writes beside it.
    #[must_use]
    pub fn curtain(&self) -> Curtain {
        match &self.shown {
            Shown::Bar { bar, .. } => Curtain(Some(bar.clone())),
            Shown::Nothing | Shown::Lines { .. } => Curtain(None),
        }
    }

    /// Takes the line away, without a trace.
    pub fn clear(&mut self) {
        if let Shown::Bar { bar, .. } = &self.shown {
            bar.finish_and_clear();
        }
        self.shown = Shown::Nothing;
    }
}

fn bar() -> ProgressBar {
    // A message that does not fit is cut: a line that wraps could not be taken back.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    bar.set_style(style("{spinner} {wide_msg}"));
    bar
}

/// Begins to draw, or takes away what is drawn.
fn draw(bar: &ProgressBar, is_drawn: bool) {
    if is_drawn {
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.reset();
        bar.enable_steady_tick(TICK);
    } else {
        bar.disable_steady_tick();
        bar.finish_and_clear();
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
}

/// Without colours, so that `NO_COLOR` has nothing to switch off.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .progress_chars("=> ")
}

fn line(snapshot: Snapshot, elapsed: Duration) -> String {
    let Snapshot {
        done,
        known,
        is_all_known,
        in_flight,
        cached,
        tokens,
        cost,
    } = snapshot;
    let more = if is_all_known { "" } else { "+" };
    let mut text = format!("{done}/{known}{more} chunks, {in_flight} in flight");
    if cached > 0 {
        let _ = write!(text, ", {cached} cached");
    }
    if tokens > 0 {
        let _ = write!(text, ", {} tokens", count(tokens));
    }
    if let Some(cost) = cost.filter(|cost| *cost > 0) {
        let _ = write!(text, ", {}", dollars(cost));
    }
    let seconds = elapsed.as_secs();
    let _ = write!(text, ", {}:{:02}", seconds / 60, seconds % 60);
    if done > 0 && seconds > 0 {
        let tenths = done * 10_000
            / u64::try_from(elapsed.as_millis())
                .unwrap_or(u64::MAX)
                .max(1);
        let _ = write!(text, ", {}.{} chunks/s", tenths / 10, tenths % 10);
    }
    // What was remembered took no time, so it says nothing about the rest.
    let asked = done.saturating_sub(cached);
    if is_all_known && asked > 0 && seconds > 0 && known > done {
        let left = elapsed.as_secs_f64() * ratio(known - done, asked);
        let left = Duration::from_secs_f64(left.min(1e9)).as_secs();
        let _ = write!(text, ", {}:{:02} left", left / 60, left % 60);
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "a guess needs no more")]
fn ratio(one: u64, other: u64) -> f64 {
    one as f64 / other as f64
}

/// A count short enough to read while it changes.
fn count(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..10_000_000 => format!("{}k", number / 1000),
        _ => format!("{}M", number / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_far_things_are() {
        let snapshot = Snapshot {
            done: 3,
            known: 9,
            is_all_known: false,
            in_flight: 4,
            cached: 2,
            tokens: 12_345,
            cost: Some(1_234_000),
        };
        assert_eq!(
            line(snapshot, Duration::from_secs(62)),
            "3/9+ chunks, 4 in flight, 2 cached, 12k tokens, $0.0012, 1:02, 0.0 chunks/s"
        );
        let most = Snapshot {
            done: 5,
            is_all_known: true,
            ..snapshot
        };
        assert_eq!(
            line(most, Duration::from_mins(1)),
            "5/9 chunks, 4 in flight, 2 cached, 12k tokens, $0.0012, 1:00, 0.0 chunks/s, 1:20 left"
        );
        let all = Snapshot {
            done: 9,
            is_all_known: true,
            tokens: 0,
            in_flight: 0,
            cached: 0,
            cost: Some(0),
            ..snapshot
        };
        assert_eq!(
            line(all, Duration::from_millis(4500)),
            "9/9 chunks, 0 in flight, 0:04, 2.0 chunks/s"
        );
    }

    #[test]
    fn draws_only_where_somebody_looks() {
        let screen = Screen {
            is_stderr_terminal: false,
            is_stdout_terminal: false,
        };
        let is_shown =
            |mode, is_quiet| !matches!(Progress::new(mode, is_quiet, screen).shown, Shown::Nothing);
        assert!(!is_shown(ProgressMode::Auto, false));
        assert!(is_shown(ProgressMode::Always, true));
        assert!(!is_shown(ProgressMode::Never, false));
    }
}
