//! From the arguments to an exit status: the rooms are put together here, and
//! nowhere else.

mod batch;
mod batches;
mod filter;
mod job;
mod keys;
#[cfg(feature = "oauth")]
mod login;
mod parts;
mod pieces;
mod plan;
mod record;
mod reports;
mod task;

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, Write as _};

use tokio::runtime::Runtime;

use crate::cli::args::Cli;
use crate::cli::argv::{self, CacheAction, Completions, Typed};
use crate::cli::completion;
use crate::cli::manual;
use crate::command;
use crate::config::{paths, profile, settings};
use crate::error::{Error, ExitStatus};
use crate::report::message;
use crate::store::models;

/// Runs the program with the arguments after its name and tells how it ended;
/// every message has been written by then.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitStatus {
    harden();
    match argv::parse(args).and_then(dispatch) {
        Ok(status) => status,
        Err(error) => {
            message::error(&error);
            error.status()
        }
    }
}

/// Keeps keys out of what a crash leaves behind. No memory goes into a core file, and on Linux no other process of the
/// same user can look into it (prctl(2), `PR_SET_DUMPABLE`); what a panic says is told without keys. What Windows keeps
/// of a crash is set for the whole machine.
fn harden() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    #[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        let _ = setrlimit(Resource::Core, none);
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let what = panic.payload_as_str().unwrap_or_default();
        message::panic(what, &place.unwrap_or_default());
    }));
}

/// Files that a run has open besides its connections, at most: inputs, what it keeps, what waits for events.
#[cfg(unix)]
const FILES: u64 = 64;

/// Sees to it that so many requests may be in flight where the system gives fewer open files at first than it allows.
/// No more than that is asked for: a `key-command` may go through all files that it could have.
fn open_enough(jobs: usize) {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        let needed = FILES + jobs as u64;
        if limit.current.is_some_and(|current| current < needed) {
            limit.current = Some(limit.maximum.map_or(needed, |most| most.min(needed)));
            let _ = setrlimit(Resource::Nofile, limit);
        }
    }
    #[cfg(not(unix))]
    let _ = jobs;
}

/// Steps of tasks between two looks at the sockets. A look takes as long as several steps, and when each brings one
/// token there is much to do between two.
const STEPS: u32 = 256;

/// One thread for everything that waits.
fn runtime() -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(STEPS)
        .build()
        .map_err(|source| Error::System {
            what: "start the runtime",
            source,
        })
}

fn dispatch(typed: Typed) -> Result<ExitStatus, Error> {
    match typed {
        Typed::HelpWith(text) => print(&text),
        Typed::Usage(cli) => reports::usage(&cli),
        Typed::Metrics(cli) => reports::metrics(&cli),
        Typed::Help => print(&manual::help()),
        Typed::Version => print(concat!("gptpipe ", env!("CARGO_PKG_VERSION"), "\n")),
        Typed::Run { cli, operands } => filter::filter(*cli, operands),
        Typed::Cache { cli, action } => cache(&cli, action),
        Typed::Setup { cli } => keys::setup(&cli),
        Typed::Key { cli, action } => keys::key(&cli, action),
        #[cfg(feature = "oauth")]
        Typed::Login { cli } => login::login(&cli),
        Typed::Batch { cli, action } => batches::batch(&cli, action),
        Typed::Completions { cli, what } => completions(*cli, what),
    }
}

/// `gptpipe cache`: it looks at the file that a run with the same options would use.
fn cache(cli: &Cli, action: CacheAction) -> Result<ExitStatus, Error> {
    let config = settings::cache(cli, &filter::config_file()?);
    let file = match config.file.as_deref() {
        Some(":memory:") => None,
        Some(file) => Some(file.into()),
        None => paths::cache_file(),
    };
    let Some(file) = file else {
        return Err(Error::usage_hint(
            "there is no file in which replies are remembered",
            "name one with `--cache`",
        ));
    };
    print(&match action {
        CacheAction::Stats => command::cache::stats(&file)?,
        CacheAction::Prune => command::cache::prune(&file, config.max_bytes)?,
        CacheAction::Clear => command::cache::clear(&file)?,
    })
}

/// `gptpipe completions`: a script, or the names that it asks for, one a line.
fn completions(cli: Cli, what: Completions) -> Result<ExitStatus, Error> {
    let names = match what {
        Completions::Script(shell) => return print(&completion::script(shell)),
        Completions::Profiles => profile::names(&filter::config_file()?.profiles),
        Completions::Models => {
            let mut settled = settings::models(cli, &filter::environment, filter::config_file()?)?;
            if let Some(folder) = paths::models_folder() {
                settled.1.extend(models::read_models(&folder, &settled.0));
            }
            settled.1
        }
    };
    let mut text = String::new();
    let mut told = HashSet::new();
    for name in names.iter().filter(|name| models::is_plain(name)) {
        if told.insert(name) {
            text.push_str(name);
            text.push('\n');
        }
    }
    print(&text)
}

fn print(text: &str) -> Result<ExitStatus, Error> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(ExitStatus::Success),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::ReaderLeft),
        Err(error) => Err(Error::Output(error)),
    }
}
