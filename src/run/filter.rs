//! The filter: text in, chunks out, replies in order.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::api::address::is_exposed;
use crate::api::identity::Identity;
use crate::api::request::Template;
use crate::cli::args::Cli;
use crate::config::settings::{self, Config};
use crate::config::{file, paths};
use crate::demo::{self, DemoServer};
use crate::error::{Error, ExitStatus};
use crate::input::chunk::By;
use crate::input::token::{Encoding, TokenCounter};
use crate::limit::budget::Budget;
use crate::pipeline::recall::Recall;
use crate::pipeline::reorder::OnError;
use crate::pipeline::tally::Tally;
use crate::pipeline::tariff::Tariff;
use crate::pipeline::verdicts::Verdicts;
use crate::report::log::Book;
use crate::report::message::Messages;
use crate::report::price::dollars;
use crate::report::progress::{Progress, Screen};
use crate::run::batch::Batch;
use crate::run::job::Job;
use crate::run::parts::{Memory, asker, merger, open_cache, start_demo, whom};
use crate::run::pieces::{Begin, join, pieces, read};
use crate::run::plan::Plan;
use crate::run::record::{budget, by_batch, open_book, write_metrics};
use crate::run::task::{Task, task};
use crate::run::{open_enough, runtime};

/// Runs the filter to its end.
pub(super) fn filter(cli: Cli, operands: Vec<OsString>) -> Result<ExitStatus, Error> {
    let is_demo = cli.demo;
    for (is_given, option, command) in [
        (cli.no_check, "--no-check", "setup"),
        (cli.revoke, "--revoke", "login"),
    ] {
        if is_given {
            return Err(Error::usage_hint(
                format!("`{option}` is for `gptpipe {command}` alone"),
                "leave it out",
            ));
        }
    }
    let (is_null_input, prompt_file) = (cli.null_input, cli.prompt_file.clone());
    let file = config_file()?;
    let config = settings::resolve(cli, &environment, file)?;
    // A line that is drawn over and over would take away what is being typed.
    let is_typed = operands.iter().any(|operand| operand == "-") && io::stdin().is_terminal();
    let task = task(prompt_file.as_deref(), &config, is_null_input, operands)?;
    let prompts = [Some(&task.prompt), config.reduce.as_ref()];
    if is_demo
        && !prompts
            .into_iter()
            .flatten()
            .all(|prompt| demo::understands(prompt))
    {
        return Err(Error::usage_hint(
            "--demo cannot do what the prompt asks: the demo is not a language model, and can only \
             summarize (pick the main sentences)",
            "try `gptpipe --demo summarize`; for anything else give gptpipe a real model, see \
             `gptpipe --help`",
        ));
    }
    let is_in_place = !task.replaced.is_empty();
    let screen = Screen {
        is_stderr_terminal: io::stderr().is_terminal()
            && !is_typed
            && environment("TERM").is_none_or(|term| term != "dumb"),
        is_stdout_terminal: io::stdout().is_terminal() && !is_in_place,
    };
    open_enough(config.jobs.most());
    let runtime = runtime()?;
    #[cfg(feature = "oauth")]
    let session = config.provider.session.clone();
    let result = runtime.block_on(ask(config, task, is_demo, screen));
    #[cfg(feature = "oauth")]
    if let Some(session) = session {
        runtime.block_on(session.finish());
    }
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

/// Begins to read, but for a batch: what comes of it has to be there before the input is looked up.
fn read_early(
    config: &Config,
    task: &mut Task,
    encoding: Encoding,
) -> Result<Option<Begin>, Error> {
    if config.batch.is_some() && !config.is_dry_run {
        return Ok(None);
    }
    read(config, task.sources.take(), task.prompt.clone(), encoding).map(Some)
}

async fn ask(
    config: Config,
    mut task: Task,
    is_demo: bool,
    screen: Screen,
) -> Result<ExitStatus, Error> {
    let mut progress = Progress::new(config.progress, config.is_quiet, screen);
    let messages = messages(&config, &progress);
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
    let replaced = std::mem::take(&mut task.replaced);
    let (schema, is_prompt_alone) = (task.schema.clone(), task.sources.is_none());
    let reading = read_early(&config, &mut task, encoding)?;
    let memory = open_cache(&config, &messages);
    // The demo's address is another one each time.
    let url = if is_demo { "demo" } else { client.url() }.to_owned();
    let recall = Recall {
        identity: Identity::new(&url, &request),
        cache: memory.cache.clone(),
    };
    let mut early = reading.map(|begin| begin(recall.clone()));
    let (budget, tariff) = budget(&config, is_demo)?;
    if let Some((pieces, cutters)) = early.take_if(|_| config.is_dry_run) {
        let template = Template::new(request);
        let plan = Plan {
            format: config.format,
            system: template.system(),
            host: &client.host(),
            model: &config.model,
            counter: TokenCounter::new(encoding),
            tariff: &by_batch(&config, &tariff),
            is_remembered: memory.cache.is_some(),
            is_reduced: config.reduce.is_some(),
            is_terminal: screen.is_stdout_terminal,
        };
        plan.write(pieces).await?;
        return join(cutters).map(|()| ExitStatus::Success);
    }
    let book = open_book(&config, &client, is_demo)?;
    let mut asker = asker(
        &config,
        client,
        request.clone(),
        recall.clone(),
        encoding,
        schema,
        &messages,
    );
    asker.book = book.clone();
    (asker.budget, asker.tariff) = (Arc::new(budget), tariff.clone());
    let merger = merger(&config, &asker, &url, request.clone());
    let verdicts = Arc::default();
    let batch = Batch {
        config: &config,
        encoding,
        request,
        verdicts: Arc::clone(&verdicts),
        lasts: memory.lasts,
    };
    let records = Records {
        config: &config,
        memory: &memory,
        budget: Arc::clone(&asker.budget),
        book,
        verdicts,
        messages: &messages,
    };
    let asker = batch.run(asker, &mut task, &mut progress).await;
    let asker = records.keep(asker).await?;
    let (pieces, cutters) = match early {
        Some(early) => early,
        None => pieces(&config, task.sources, task.prompt, encoding, recall)?,
    };
    let job = Job {
        is_line: merger.is_some() || asker.schema.is_some() || is_prompt_alone,
        is_by_line: config.by == By::Line && merger.is_none(),
        lasts: memory.lasts,
        config: &config,
        asker,
        merger,
        screen,
        replaced,
    };
    let mut tally = Tally::default();
    let ended = Box::pin(job.run(pieces, &mut progress, &mut tally)).await;
    records.close(&tally).await;
    if ended.is_ok() {
        join(cutters)?;
    }
    if !matches!(ended, Err(Error::ReaderLeft)) {
        // After a run that broke off there is more to send than what failed in it.
        let is_rest = memory.lasts && ended.is_ok();
        let remark = remark_if_empty.take_if(|_| ended.is_ok());
        summarize(&tally, &tariff, config.on_error, is_rest, remark, &messages);
    }
    conclude(ended, &tally, memory.lasts)
}

fn messages(config: &Config, progress: &Progress) -> Messages {
    Messages {
        curtain: progress.curtain(),
        is_quiet: config.is_quiet,
        is_verbose: config.is_verbose,
    }
}

/// How the run ended, as an exit status. `lasts` says whether what was answered is remembered.
fn conclude(ended: Result<(), Error>, tally: &Tally, lasts: bool) -> Result<ExitStatus, Error> {
    match ended {
        Err(error) if lasts && tally.written > 0 => Err(error.with_rest()),
        Err(error) => Err(error),
        Ok(()) if tally.cut + tally.failures + tally.left > 0 => Ok(ExitStatus::Incomplete),
        Ok(()) => Ok(ExitStatus::Success),
    }
}

/// What is kept of a run besides its output.
struct Records<'a> {
    config: &'a Config,
    memory: &'a Memory,
    budget: Arc<Budget>,
    book: Book,
    verdicts: Arc<Verdicts>,
    messages: &'a Messages,
}

impl Records<'_> {
    /// Ends the records with what ends the run.
    async fn keep<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if result.is_err() {
            self.close(&Tally::default()).await;
        }
        result
    }

    /// Waits until all of it is where it belongs.
    async fn close(&self, tally: &Tally) {
        self.memory.finish(self.messages).await;
        self.budget.finish().await;
        let (brought, usage) = self.verdicts.brought();
        let cached = tally.cached.saturating_sub(brought);
        self.book.finish(cached, tally.saved.without(usage));
        write_metrics(self.config, self.messages);
        if let Some(trouble) = self.book.take_trouble() {
            self.messages.warning(&trouble);
        }
    }
}

/// Says with `-v` whom is asked; gives the vocabulary that tokens are counted by.
fn tell_whom(
    config: &Config,
    host: &str,
    demo: Option<&DemoServer>,
    messages: &Messages,
) -> Encoding {
    let (encoding, is_own) = config.provider.profile.encoding(&config.model);
    if demo.is_none() {
        let profile = &config.provider.profile;
        let url = profile.base_url.as_deref().unwrap_or_default();
        if profile.allows_http && is_exposed(url) {
            messages.warning(&format!(
                "allow-http: whatever is sent to {host}, a key too, can be read on the way"
            ));
        }
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
            config.model, profile.name
        ));
        if config.provider.is_withheld {
            messages.note(&format!(
                "the key of the profile {} is not sent to {host}, another host than its own",
                profile.name
            ));
        }
    }
    encoding
}

/// Tells which chunks failed while the run went on, and whether they are all that running again
/// sends; which replies are empty; and `remark` where there was no text at all.
fn summarize(
    tally: &Tally,
    tariff: &Tariff,
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
        "replies: {}, of these remembered: {}, tokens: {}, cost: {}",
        tally.written,
        tally.cached,
        tally.tokens,
        tariff.spent().map_or_else(|| "?".to_owned(), dollars)
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
