//! From the arguments to an exit status: the rooms are put together here, and
//! nowhere else.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::api::client::{Auth, Client, ClientOptions};
use crate::api::event::Api;
use crate::api::request::{FRAMING, RESERVED, RequestOptions, Template};
use crate::cli::args::Cli;
use crate::cli::argv::{self, Typed};
use crate::cli::manual;
use crate::config::settings::{self, Config};
use crate::config::{file, paths};
use crate::demo::{self, DemoServer, Pace};
use crate::error::{Error, ExitStatus};
use crate::input::chunk::{By, Chunk, ChunkerOptions};
use crate::input::reader::{self, Piece, Source};
use crate::input::token::Encoding;
use crate::interrupt;
use crate::output::format::{FormatOptions, Formatter};
use crate::output::writer::Writer;
use crate::pipeline::map::{Map, MapOptions, Tally};
use crate::report::message::{self, Reporter};
use crate::report::progress::{Progress, Screen};
use crate::secret::secret::Secret;

/// Chunks that are cut ahead of the requests.
const CUT_AHEAD: usize = 2;

/// Time that output which is ready gets when the run is interrupted.
const LAST_WRITE: Duration = Duration::from_millis(500);

/// Runs the program with the arguments after its name and tells how it ended;
/// every message has been written by then.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitStatus {
    match argv::parse(args).and_then(dispatch) {
        Ok(status) => status,
        Err(error) => {
            message::error(&error);
            error.status()
        }
    }
}

fn dispatch(typed: Typed) -> Result<ExitStatus, Error> {
    match typed {
        Typed::Help => print(&manual::help()),
        Typed::Version => print(concat!("gptpipe ", env!("CARGO_PKG_VERSION"), "\n")),
        Typed::Run { cli, operands } => filter(*cli, operands),
    }
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

/// What a run works on.
#[derive(Debug)]
struct Task {
    prompt: String,
    /// None: the prompt alone is sent.
    sources: Option<Vec<Source>>,
}

fn filter(cli: Cli, operands: Vec<OsString>) -> Result<ExitStatus, Error> {
    let is_demo = cli.demo;
    let (is_null_input, prompt_file) = (cli.null_input, cli.prompt_file.clone());
    let file = match paths::config_file() {
        Some(path) => file::read(&path)?,
        None => file::File::default(),
    };
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let config = settings::resolve(cli, &environment, file)?;
    let task = task(prompt_file.as_deref(), is_null_input, operands)?;
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

/// Sorts the operands into prompt and files, and opens these.
fn task(
    prompt_file: Option<&str>,
    is_null_input: bool,
    mut operands: Vec<OsString>,
) -> Result<Task, Error> {
    let prompt = match prompt_file {
        Some("-") => io::read_to_string(io::stdin()).map_err(|source| Error::NoInput {
            file: "standard input".to_owned(),
            source,
        })?,
        Some(path) => fs::read_to_string(path).map_err(|source| Error::NoInput {
            file: path.to_owned(),
            source,
        })?,
        None if operands.is_empty() => {
            return Err(Error::usage_hint(
                "there is no prompt",
                "say what to do with the text, as in `gptpipe summarize report.txt`; \
                 see `gptpipe --help`",
            ));
        }
        None => operands
            .remove(0)
            .into_string()
            .map_err(|_| Error::usage("the prompt is not UTF-8"))?,
    };
    if prompt.trim().is_empty() {
        return Err(Error::usage("the prompt is empty"));
    }
    let prompt = prompt.trim_end_matches(['\n', '\r']).to_owned();
    if is_null_input && !operands.is_empty() {
        return Err(Error::usage_hint(
            "`--null-input` takes no files",
            "leave out either the files or `-n`",
        ));
    }
    let reads_nothing =
        operands.is_empty() && (prompt_file == Some("-") || io::stdin().is_terminal());
    let sources = if is_null_input || reads_nothing {
        None
    } else {
        Some(reader::open(&operands)?)
    };
    Ok(Task { prompt, sources })
}

async fn ask(
    config: Config,
    task: Task,
    is_demo: bool,
    screen: Screen,
) -> Result<ExitStatus, Error> {
    let mut reporter = Reporter {
        progress: Progress::new(config.progress, config.is_quiet, screen),
        is_quiet: config.is_quiet,
        is_verbose: config.is_verbose,
    };
    let demo = if is_demo {
        Some(start_demo(config.system.as_deref(), &reporter).await?)
    } else {
        None
    };
    let (client, template) = whom(&config, &task, demo.as_ref())?;
    let (encoding, is_own) = config.profile.encoding(&config.model);
    if config.is_verbose && !is_demo {
        let counted = if is_own {
            ""
        } else {
            ", the nearest one to its own"
        };
        reporter.note(&format!(
            "asking {} at {}, profile {}; tokens counted by {encoding:?}{counted}",
            config.model,
            client.host(),
            config.profile.name
        ));
    }
    let mut formatter = Formatter::new(FormatOptions {
        join: config.join,
        is_one_line: config.by == By::Line,
        is_terminal: screen.is_stdout_terminal,
    });
    let options = MapOptions {
        jobs: config.jobs.get(),
        is_live: config.is_live.unwrap_or(screen.is_stdout_terminal),
        keeps_cut: config.max_output_tokens.is_some(),
    };
    let (pieces, cutter) = pieces(&config, task, encoding)?;
    let mut writer = Writer::start()?;
    let mut tally = Tally::default();
    let map = Map {
        client: Arc::new(client),
        template: Arc::new(template),
        formatter: &mut formatter,
        writer: &mut writer,
        reporter: &mut reporter,
        tally: &mut tally,
        pending: String::new(),
    };
    let mapped = tokio::select! {
        biased;
        signal = interrupt::signal() => Err(End::Signal(signal)),
        result = map.run(pieces, options) => result.map_err(End::Error),
    };
    reporter.progress.clear();
    let mut last = String::new();
    formatter.finish(&mut last);
    let finished = async {
        writer.write(last).await?;
        writer.finish().await
    };
    match mapped {
        Ok(()) => {
            finished.await?;
            // A cutter that broke off looks like the end of input; a short output must not pass for a
            // whole one.
            if cutter.is_some_and(|cutter| cutter.join().is_err()) {
                return Err(Error::System {
                    what: "read to the end",
                    source: io::Error::other("the thread that cuts the input broke off"),
                });
            }
        }
        Err(End::Error(error)) => {
            // What stands before the failure is right and stays; an error of writing itself has
            // no output to wait for.
            if !matches!(error, Error::Output(_) | Error::ReaderLeft) {
                finished.await?;
            }
            return Err(error);
        }
        Err(End::Signal(signal)) => {
            let _ = tokio::time::timeout(LAST_WRITE, finished).await;
            let Tally { written, known, .. } = tally;
            return Err(Error::Interrupted {
                signal,
                written: format!(
                    "{written} of {known} chunks read so far were answered and written"
                ),
            });
        }
    }
    Ok(if tally.cut > 0 {
        ExitStatus::Incomplete
    } else {
        ExitStatus::Success
    })
}

/// What ended the map.
enum End {
    Error(Error),
    Signal(i32),
}

async fn start_demo(system: Option<&str>, reporter: &Reporter) -> Result<DemoServer, Error> {
    reporter.warning(
        "--demo: a small program on this machine picks the main sentences; it is no language model",
    );
    demo::start(system.unwrap_or(FRAMING), Pace::believable())
        .await
        .map_err(|source| Error::System {
            what: "start the demo server",
            source,
        })
}

/// Whom to ask, and the requests but for their chunks.
fn whom(
    config: &Config,
    task: &Task,
    demo: Option<&DemoServer>,
) -> Result<(Client, Template), Error> {
    let profile = &config.profile;
    if let Some(param) = config
        .params
        .iter()
        .find(|param| RESERVED.contains(&param.name.as_str()))
    {
        return Err(Error::usage(format!(
            "`--param {}`: gptpipe writes this field itself",
            param.name
        )));
    }
    let (base_url, key) = match demo {
        Some(demo) => (
            demo.base_url().to_owned(),
            Secret::new(demo.key().to_owned()),
        ),
        None => (base_url(config)?, config.key.clone()),
    };
    if key.is_none() && profile.needs_key && demo.is_none() {
        let variable = profile.key_env.as_deref().unwrap_or("GPTPIPE_API_KEY");
        return Err(Error::usage_hint(
            format!("there is no key for the profile `{}`", profile.name),
            format!(
                "put it into {variable} or GPTPIPE_API_KEY; to try gptpipe without one, use --demo, \
                 or a server of your own with --base-url or `-P ollama`"
            ),
        ));
    }
    let client = Client::new(ClientOptions {
        base_url,
        api: config.api,
        end: profile.end,
        key,
        auth: if demo.is_some() {
            Auth::Bearer
        } else {
            profile.auth
        },
        headers: profile.headers.clone(),
        timeout: config.timeout,
        jobs: config.jobs.get(),
    })?;
    let token_field = match config.api {
        Api::Chat => profile.token_field.clone(),
        Api::Responses => "max_output_tokens".to_owned(),
    };
    let template = Template::new(RequestOptions {
        api: config.api,
        model: config.model.clone(),
        system: config.system.clone(),
        prompt: task.prompt.clone(),
        is_prompt_alone: task.sources.is_none(),
        params: config.params.clone(),
        max_output: config
            .max_output_tokens
            .map(|tokens| (token_field, tokens.get())),
        wants_usage: profile.usage,
    });
    Ok((client, template))
}

fn base_url(config: &Config) -> Result<String, Error> {
    config.profile.base_url.clone().ok_or_else(|| {
        let hint = if config.profile.name == "azure" {
            "put it into AZURE_OPENAI_ENDPOINT, as in https://RESOURCE.openai.azure.com"
        } else {
            "name it with `--base-url`, GPTPIPE_BASE_URL or `base-url` in the configuration file"
        };
        Error::usage_hint(
            format!("the profile `{}` has no address", config.profile.name),
            hint,
        )
    })
}

/// The receiving end of the thread that cuts.
type Pieces = mpsc::Receiver<Result<Piece, Error>>;

/// Starts the thread that reads and cuts; without input there is none.
fn pieces(
    config: &Config,
    task: Task,
    encoding: Encoding,
) -> Result<(Pieces, Option<JoinHandle<()>>), Error> {
    let (sender, receiver) = mpsc::channel(CUT_AHEAD);
    let Some(sources) = task.sources else {
        let alone = Piece {
            file: Arc::from(""),
            chunk: Chunk {
                text: task.prompt,
                ..Chunk::default()
            },
        };
        // There is room for one.
        let _ = sender.try_send(Ok(alone));
        return Ok((receiver, None));
    };
    let options = ChunkerOptions {
        by: config.by,
        max_tokens: config.chunk_tokens.get(),
        encoding,
        context_tokens: config.context,
    };
    let flush_after = config.flush_after;
    let cutter = thread::Builder::new()
        .name("cut".to_owned())
        .spawn(move || {
            let result = reader::read(sources, &options, flush_after, |piece| {
                sender.blocking_send(Ok(piece)).is_ok()
            });
            if let Err(error) = result {
                let _ = sender.blocking_send(Err(error));
            }
        })
        .map_err(|source| Error::System {
            what: "start a thread",
            source,
        })?;
    Ok((receiver, Some(cutter)))
}
