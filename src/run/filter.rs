//! The filter: text in, chunks out, replies in order.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::api::identity::Identity;
use crate::api::request::{FRAMING, Template};
use crate::cli::args::Cli;
use crate::config::settings::{self, Config};
use crate::config::{file, paths};
use crate::demo::{self, DemoServer, Pace};
use crate::error::{Error, ExitStatus};
use crate::input::chunk::By;
use crate::input::token::{Encoding, TokenCounter};
use crate::interrupt;
use crate::limit::gate::Gate;
use crate::limit::pacer::Pacer;
use crate::output::format::{FormatOptions, Formatter};
use crate::output::writer::Writer;
use crate::pipeline::ask::{AskOptions, Asker};
use crate::pipeline::map::{Map, Tally};
use crate::pipeline::recall::Recall;
use crate::pipeline::reorder::{MapOptions, OnError};
use crate::report::message::Messages;
use crate::report::progress::{Progress, Screen};
use crate::run::parts::{limits_output, open_cache, pieces, whom};
use crate::run::task::{Task, task};

/// Time that output which is ready gets when the run is interrupted.
const LAST_WRITE: Duration = Duration::from_millis(500);

/// Runs the filter to its end.
pub(super) fn filter(cli: Cli, operands: Vec<OsString>) -> Result<ExitStatus, Error> {
    let is_demo = cli.demo;
    let (is_null_input, prompt_file) = (cli.null_input, cli.prompt_file.clone());
    let file = config_file()?;
    let config = settings::resolve(cli, &environment, file)?;
    let task = task(prompt_file.as_deref(), is_null_input, operands)?;
    if is_demo && !demo::understands(&task.prompt) {
        return Err(Error::usage_hint(
            "--demo cannot do what the prompt asks: the demo is not a language model, and can only \
             summarize (pick the main sentences)",
            "try `gptpipe --demo summarize`; for anything else give gptpipe a real model, see \
             `gptpipe --help`",
        ));
    }
    let screen = Screen {
        is_stderr_terminal: io::stderr().is_terminal()
            && environment("TERM").is_none_or(|term| term != "dumb"),
        is_stdout_terminal: io::stdout().is_terminal(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System {
            what: "start the runtime",
            source,
        })?;
    let result = runtime.block_on(ask(config, task, is_demo, screen));
    // A name look-up or the like may still be under way on a thread of its own; nobody waits for it.
    runtime.shutdown_background();
    result
}

/// A variable of the environment; an empty one is as good as none.
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What the user's configuration file says.
pub(super) fn config_file() -> Result<file::File, Error> {
    match paths::config_file() {
        Some(path) => file::read(&path),
        None => Ok(file::File::default()),
    }
}

async fn ask(
    config: Config,
    task: Task,
    is_demo: bool,
    screen: Screen,
) -> Result<ExitStatus, Error> {
    let mut progress = Progress::new(config.progress, config.is_quiet, screen);
    let messages = Messages {
        curtain: progress.curtain(),
        is_quiet: config.is_quiet,
        is_verbose: config.is_verbose,
    };
    let demo = if is_demo {
        Some(start_demo(config.system.as_deref(), &messages).await?)
    } else {
        None
    };
    let (client, request) = whom(&config, &task, demo.as_ref())?;
    if let Some(remark) = &task.remark {
        messages.warning(remark);
    }
    let mut remark_if_empty = task.remark_if_empty.clone();
    let encoding = tell_whom(&config, &client.host(), demo.as_ref(), &messages);
    let memory = open_cache(&config, &messages);
    // The demo's address is another one each time.
    let url = if is_demo { "demo" } else { client.url() };
    let recall = Recall {
        identity: Identity::new(url, &request),
        cache: memory.cache.clone(),
    };
    let (pieces, cutter) = pieces(&config, task, encoding, recall.clone())?;
    let pacer = Pacer::new(paths::state_file(), client.identity(), config.limits);
    let asker = Asker {
        client,
        template: Template::new(request),
        recall,
        gate: Gate::default(),
        pacer,
        counter: Mutex::new(TokenCounter::new(encoding)),
        messages: messages.clone(),
        has_told: AtomicBool::new(false),
        options: AskOptions {
            max_retries: config.retries,
            keeps_cut: limits_output(&config),
            is_cache_only: config.cache.is_only,
            can_restart: screen.is_stdout_terminal,
            stops: config.on_error == OnError::Stop,
        },
    };
    let mut formatter = Formatter::new(FormatOptions {
        join: config.join,
        is_one_line: config.by == By::Line,
        is_terminal: screen.is_stdout_terminal,
    });
    let options = MapOptions {
        jobs: config.jobs,
        is_live: config.is_live.unwrap_or(screen.is_stdout_terminal),
        on_error: config.on_error,
        is_by_line: config.by == By::Line,
    };
    let mut writer = Writer::start()?;
    let mut tally = Tally::default();
    let map = Map {
        asker: Arc::new(asker),
        formatter: &mut formatter,
        writer: &mut writer,
        progress: &mut progress,
        messages: messages.clone(),
        tally: &mut tally,
        pending: String::new(),
        is_gap_out: false,
    };
    let mapped = tokio::select! {
        biased;
        signal = interrupt::signal() => Err(End::Signal(signal)),
        result = map.run(pieces, options) => result.map_err(End::Error),
    };
    progress.clear();
    let mut last = String::new();
    formatter.finish(&mut last);
    let ended = finish_output(mapped, writer, last, &tally, memory.lasts).await;
    memory.finish(&messages).await;
    // A cutter that broke off looks like the end of input; a short output must not pass for a
    // whole one.
    if ended.is_ok() && cutter.is_some_and(|cutter| cutter.join().is_err()) {
        return Err(Error::System {
            what: "read to the end",
            source: io::Error::other("the thread that cuts the input broke off"),
        });
    }
    if !matches!(ended, Err(Error::ReaderLeft)) {
        // After a run that broke off there is more to send than what failed in it.
        let is_rest = memory.lasts && ended.is_ok();
        let remark = remark_if_empty.take_if(|_| ended.is_ok());
        summarize(&tally, config.on_error, is_rest, remark, &messages);
    }
    if let Err(error) = ended {
        return Err(if memory.lasts && tally.written > 0 {
            error.with_rest()
        } else {
            error
        });
    }
    Ok(if tally.cut + tally.failures > 0 {
        ExitStatus::Incomplete
    } else {
        ExitStatus::Success
    })
}

/// Says with `-v` whom is asked; gives the vocabulary that tokens are counted by.
fn tell_whom(
    config: &Config,
    host: &str,
    demo: Option<&DemoServer>,
    messages: &Messages,
) -> Encoding {
    let (encoding, is_own) = config.profile.encoding(&config.model);
    if demo.is_none() {
        let vocabulary = match encoding {
            Encoding::O200k => "o200k",
            Encoding::Cl100k => "cl100k",
        };
        let nearest = if is_own {
            ""
        } else {
            ", as its own vocabulary is not known"
        };
        messages.note(&format!(
            "asking {} at {host}, profile {}; tokens counted by {vocabulary}{nearest}",
            config.model, config.profile.name
        ));
    }
    encoding
}

/// Waits until the output is written, and tells how the run ended.
async fn finish_output(
    mapped: Result<(), End>,
    mut writer: Writer,
    last: String,
    tally: &Tally,
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
            let written = tally.written;
            let known = tally.known.load(Ordering::Relaxed);
            Err(Error::Interrupted {
                signal,
                written: format!(
                    "{written} of {known} chunks read so far were answered and written"
                ),
                is_remembered,
            })
        }
    }
}

/// Tells which chunks failed while the run went on, and whether they are all that running again
/// sends; which replies are empty; and `remark` where there was no text at all.
fn summarize(
    tally: &Tally,
    on_error: OnError,
    is_rest: bool,
    remark: Option<String>,
    messages: &Messages,
) {
    if let Some(remark) = remark.filter(|_| tally.known.load(Ordering::Relaxed) == 0) {
        messages.warning(&remark);
    }
    if let Some(first) = &tally.first_empty {
        messages.warning(&match tally.empty {
            1 => format!("the reply to {first} is empty"),
            empty => format!(
                "{empty} of {} replies are empty, the first of them to {first}",
                tally.written
            ),
        });
    }
    messages.note(&format!(
        "replies: {}, of these remembered: {}, tokens: {}",
        tally.written, tally.cached, tally.tokens
    ));
    if tally.failures == 0 {
        return;
    }
    let instead = match on_error {
        OnError::Keep => "kept as they were",
        OnError::Stop | OnError::Skip => "left out",
    };
    let mut lines = tally.failed.clone();
    let untold = tally.failures - lines.len() as u64;
    if untold > 0 {
        lines.push(format!("and {untold} more"));
    }
    let hint = is_rest.then_some("what was answered is remembered: run again to send only these");
    messages.summary(
        &format!(
            "{} of {} chunks failed and were {instead}:",
            tally.failures,
            tally.failures + tally.written
        ),
        &lines,
        hint,
    );
}

/// What ended the map.
enum End {
    Error(Error),
    Signal(i32),
}

async fn start_demo(system: Option<&str>, messages: &Messages) -> Result<DemoServer, Error> {
    messages.warning(
        "--demo: a small program on this machine picks the main sentences; it is no language model",
    );
    demo::start(system.unwrap_or(FRAMING), Pace::believable())
        .await
        .map_err(|source| Error::System {
            what: "start the demo server",
            source,
        })
}
