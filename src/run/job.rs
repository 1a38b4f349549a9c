//! The work of a run: from pieces to output, and how it ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::settings::Config;
use crate::error::Error;
use crate::interrupt;
use crate::output::format::{FormatOptions, Formatter, Join};
use crate::output::replace::Replacement;
use crate::output::writer::Writer;
use crate::pipeline::ask::Asker;
use crate::pipeline::map::Map;
use crate::pipeline::reduce::Reduce;
use crate::pipeline::reorder::MapOptions;
use crate::pipeline::tally::Tally;
use crate::report::progress::{Progress, Screen};
use crate::run::pieces::{Pieces, single};

/// Time that output which is ready gets when the run is interrupted.
const LAST_WRITE: Duration = Duration::from_millis(500);

/// The work of a run, once all that it needs is at hand.
pub(super) struct Job<'a> {
    pub(super) config: &'a Config,
    pub(super) asker: Asker,
    /// What asks about packs of replies, where they are merged.
    pub(super) merger: Option<Asker>,
    pub(super) screen: Screen,
    /// The files that are replaced by what comes of them; empty for standard output.
    pub(super) replaced: Vec<Replacement>,
    /// Without a source, or where values are read by a program, each reply is a line.
    pub(super) is_line: bool,
    /// Whether each record of the input has its line in the output.
    pub(super) is_by_line: bool,
    /// Whether what was answered is remembered after the run.
    pub(super) lasts: bool,
}

impl Job<'_> {
    /// Does it, and writes what comes of it; tells how it ended.
    pub(super) async fn run(
        self,
        mut pieces: Pieces,
        progress: &mut Progress,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let config = self.config;
        let mut formatter = Formatter::new(FormatOptions {
            format: config.format,
            unfences: config.unfences,
            join: config.join.unwrap_or(if self.is_line {
                Join::Line
            } else {
                Join::Source
            }),
            is_one_line: self.is_by_line,
            is_terminal: self.screen.is_stdout_terminal,
        });
        let options = MapOptions {
            jobs: config.jobs,
            is_live: config.is_live.unwrap_or(self.screen.is_stdout_terminal),
            on_error: config.on_error,
            is_by_line: self.is_by_line,
        };
        let mut writer = if self.replaced.is_empty() {
            Writer::start()?
        } else {
            Writer::in_place(self.replaced)?
        };
        let messages = self.asker.messages.clone();
        let is_reduced = self.merger.is_some();
        let work = async {
            let mut asker = Arc::new(self.asker);
            if let Some(merger) = self.merger.map(Arc::new) {
                let reduce = Reduce {
                    map: asker,
                    merge: Arc::clone(&merger),
                    max_tokens: config.chunk_tokens.get(),
                    unfences: config.unfences,
                    progress,
                    messages: messages.clone(),
                    tally,
                    options,
                };
                let Some(last) = reduce.run(pieces).await? else {
                    return Ok(());
                };
                pieces = single(&last.name, last.text, &merger.recall);
                asker = merger;
            }
            let map = Map {
                asker,
                formatter: &mut formatter,
                writer: &mut writer,
                progress,
                messages,
                tally,
                pending: String::new(),
                is_gap_out: false,
            };
            map.run(pieces, options).await
        };
        let mapped = tokio::select! {
            biased;
            signal = interrupt::signal() => Err(End::Signal(signal)),
            result = work => result.map_err(End::Error),
        };
        progress.clear();
        let mut last = String::new();
        formatter.finish(&mut last);
        finish_output(mapped, writer, last, tally, is_reduced, self.lasts).await
    }
}

/// Waits until the output is written, and tells how the run ended.
async fn finish_output(
    mapped: Result<(), End>,
    mut writer: Writer,
    last: String,
    tally: &Tally,
    is_reduced: bool,
    is_remembered: bool,
) -> Result<(), Error> {
    let finished = async {
        writer.write(last).await?;
        writer.finish().await
    };
    match mapped {
        Ok(()) => finished.await,
        // An error of writing itself has no output to wait for.
        Err(End::Error(error @ (Error::Output(_) | Error::ReaderLeft))) => Err(error),
        Err(End::Error(error)) => {
            // What stands before the failure is right and stays.
            finished.await?;
            Err(error)
        }
        Err(End::Signal(signal)) => {
            let _ = tokio::time::timeout(LAST_WRITE, finished).await;
            let answered = tally.written;
            let known = tally.known.load(Ordering::Relaxed);
            let what = if is_reduced {
                "answered, and the replies not merged yet"
            } else {
                "answered and written"
            };
            Err(Error::Interrupted {
                signal,
                written: format!("{answered} of {known} chunks read so far were {what}"),
                is_remembered,
            })
        }
    }
}

/// What ended the map.
enum End {
    Error(Error),
    Signal(i32),
}
