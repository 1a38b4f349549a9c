//! `--batch`: what the run will ask about is asked by the provider's Batch API first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::api::batch::Bounds;
use crate::api::reply::Usage;
use crate::api::request::{RequestOptions, Template};
use crate::config::paths;
use crate::config::settings::Config;
use crate::error::{Error, ExitStatus};
use crate::input::spool::Spool;
use crate::input::token::Encoding;
use crate::interrupt;
use crate::pipeline::ask::Asker;
use crate::pipeline::batch::{Batches, Standing, Whom};
use crate::pipeline::verdicts::Verdicts;
use crate::report::progress::Progress;
use crate::run::pieces::{join, pieces};
use crate::run::record::{by_batch, open_batch_book};
use crate::run::task::Task;
use crate::secret::redact::{Words, redact};
use crate::store::batch::Jobs;
use crate::store::scratch::scratch;

/// What batches are made with.
pub(super) struct Batch<'a> {
    pub(super) config: &'a Config,
    pub(super) encoding: Encoding,
    pub(super) request: RequestOptions,
    /// Takes in what batches could not do.
    pub(super) verdicts: Arc<Verdicts>,
    /// Whether what is in the cache is found by another run.
    pub(super) lasts: bool,
}

impl Batch<'_> {
    /// With `--batch`, has everything answered that the run will ask about; afterwards the replies are in the cache
    /// and the input can be read once more. Gives the asker that knows what batches could not do.
    pub(super) async fn run(
        self,
        asker: Asker,
        task: &mut Task,
        progress: &mut Progress,
    ) -> Result<Asker, Error> {
        let Some(bounds) = self.config.batch else {
            return Ok(asker);
        };
        let standing: Arc<Mutex<Standing>> = Arc::default();
        let work = self.answer(bounds, asker, task, progress, Arc::clone(&standing));
        let done = tokio::select! {
            biased;
            signal = interrupt::signal() => Err(left(signal, &standing)),
            result = work => result,
        };
        if done.is_err() {
            progress.clear();
        }
        done
    }

    async fn answer(
        self,
        bounds: Bounds,
        asker: Asker,
        task: &mut Task,
        progress: &mut Progress,
        standing: Arc<Mutex<Standing>>,
    ) -> Result<Asker, Error> {
        let config = self.config;
        let no_place = |why: String| {
            Error::usage_hint(
                format!("`--batch` has nowhere to keep track: {why}"),
                "without it requests might be submitted, and paid for, twice",
            )
        };
        if !self.lasts {
            return Err(no_place("there is no cache that lasts".to_owned()));
        }
        let Some(file) = paths::batch_file() else {
            return Err(no_place("there is no home folder".to_owned()));
        };
        let (jobs, warning) = Jobs::open(&file).map_err(no_place)?;
        if let Some(message) = warning {
            // What is under way is not known any more, and would be paid for twice.
            return Err(Error::Request {
                status: ExitStatus::Temporary,
                message,
                hint: Some(
                    "run again to submit anew, and pay again for, what is not remembered; what goes on can be \
                     seen and cancelled at the provider's"
                        .to_owned(),
                ),
            });
        }
        let mut folder = file;
        folder.pop();
        let spool = match task.sources.take() {
            None => None,
            Some(sources) => {
                progress.say("reading the input to its end");
                let folder = folder.clone();
                let spooled =
                    tokio::task::spawn_blocking(move || Spool::new(sources, || scratch(&folder)));
                let spooled = spooled.await.map_err(|error| Error::System {
                    what: "read the input",
                    source: error.into(),
                })?;
                Some(spooled?)
            }
        };
        let profile = &config.provider.profile;
        let tariff = by_batch(config, &asker.tariff);
        let book = open_batch_book(config, &asker.client, tariff.price.clone())?;
        let of_batches = Asker {
            book: book.clone(),
            tariff,
            ..asker.clone()
        };
        let mut batches = Batches {
            template: Template::unstreamed(self.request),
            whom: Whom {
                url: asker.client.url().to_owned(),
                host: asker.client.host(),
                profile: profile.name.clone(),
                // A key that was typed in its place is not kept.
                model: redact(&config.model, Words::Own),
                api: config.api,
            },
            asker: Arc::new(of_batches),
            bounds,
            jobs,
            folder,
            progress,
            verdicts: Arc::clone(&self.verdicts),
            standing,
            leaves: HashMap::new(),
            attempts: 0,
            full: 0,
            is_unfinished: true,
        };
        let sources = || spool.as_ref().map(Spool::sources).transpose();
        let prompt = task.prompt.clone();
        let rounds = async {
            while batches.is_unfinished {
                let (recall, prompt) = (asker.recall.clone(), prompt.clone());
                let (pieces, cutters) = pieces(config, sources()?, prompt, self.encoding, recall)?;
                let jobs = batches.submit(pieces).await?;
                join(cutters)?;
                batches.settle(&jobs).await?;
            }
            Ok(())
        };
        let done: Result<(), Error> = rounds.await;
        book.finish(0, Usage::default());
        if let Some(trouble) = book.take_trouble() {
            asker.messages.warning(&trouble);
        }
        done?;
        task.sources = sources()?;
        Ok(Asker {
            verdicts: Some(self.verdicts),
            ..asker
        })
    }
}

/// What an interrupted run says of what goes on without it.
fn left(signal: i32, standing: &Mutex<Standing>) -> Error {
    let standing = standing.lock().unwrap_or_else(PoisonError::into_inner);
    let Standing {
        batches,
        total,
        done,
    } = &*standing;
    let Some(first) = batches.first() else {
        return Error::Interrupted {
            signal,
            written: "nothing was written, as batches come first".to_owned(),
            is_remembered: true,
        };
    };
    let (what, which) = match batches.len() {
        1 => (format!("batch {first} goes"), first.clone()),
        count => (format!("{count} batches go"), "ID".to_owned()),
    };
    Error::Left {
        signal,
        what: format!("{what} on at the server, with {done} of {total} requests done"),
        hint: format!(
            "the same command picks it up; `gptpipe batch cancel {which}` ends it, and \
             `gptpipe batch` tells how far it is"
        ),
    }
}
