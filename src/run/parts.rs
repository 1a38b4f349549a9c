//! The parts of a run, made from its settings: whom to ask, what is remembered,
//! the thread that cuts.

use std::io::{self, IsTerminal as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use tokio::sync::mpsc;

use crate::api::client::{Auth, Client, ClientOptions};
use crate::api::event::Api;
use crate::api::identity::Identity;
use crate::api::request::{
    BOUNDS, FRAMING, MERGING, RESERVED, RequestOptions, SchemaRequest, Template,
};
use crate::config::paths;
use crate::config::profile::Profile;
use crate::config::settings::Config;
use crate::demo::{self, DemoServer, Pace};
use crate::error::Error;
use crate::input::chunk::{By, Chunk, ChunkerOptions};
use crate::input::reader::{self, Piece, Source};
use crate::input::token::{Encoding, TokenCounter};
use crate::limit::pacer::Pacer;
use crate::output::schema::Schema;
use crate::pipeline::ask::{AskOptions, Asker};
use crate::pipeline::found::{Found, look_up};
use crate::pipeline::recall::Recall;
use crate::pipeline::reorder::OnError;
use crate::pipeline::tariff::Tariff;
use crate::report::log::Book;
use crate::report::message::Messages;
use crate::run::task::Task;
use crate::secret::secret::Secret;
use crate::secret::source::Keys;
use crate::store::cache::{Cache, CacheOptions, Place};

/// Tokens of chunks that are cut ahead of the requests: enough that two threads do not have to
/// wait for each other at every chunk.
const CUT_AHEAD: usize = 32_000;

/// What is remembered in memory alone takes no more bytes than this.
const MEMORY_BYTES: u64 = 16 << 20;

/// Whom to ask, and what the requests have in common.
pub(super) fn whom(
    config: &Config,
    task: &Task,
    demo: Option<&DemoServer>,
) -> Result<(Client, RequestOptions), Error> {
    let profile = &config.provider.profile;
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
    let (base_url, keys) = match demo {
        Some(demo) => {
            let key = Secret::new(demo.key().to_owned());
            (demo.base_url().to_owned(), Arc::new(Keys::fixed(key)))
        }
        None => (base_url(profile)?, config.provider.keys()),
    };
    // Whether the keyring has one is found out at the first request, and whether there is a keyring now.
    if profile.needs_key
        && demo.is_none()
        && !config.cache.is_only
        && !config.is_dry_run
        && !keys.may_be_found()
    {
        return Err(keys.missing());
    }
    let client = Client::new(ClientOptions {
        base_url,
        api: config.api,
        end: profile.end,
        keys,
        allows_http: profile.allows_http,
        auth: if demo.is_some() {
            Auth::Bearer
        } else {
            profile.auth
        },
        headers: profile.headers.clone(),
        timeout: config.timeout,
        jobs: config.jobs.most(),
        idempotency_header: profile.idempotency_header.clone(),
    })?;
    let token_field = match config.api {
        Api::Chat => profile.token_field.clone(),
        Api::Responses => "max_output_tokens".to_owned(),
    };
    let request = RequestOptions {
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
        schema: task.schema.as_ref().map(|schema| SchemaRequest {
            json: schema.json().to_owned(),
            is_strict: schema.is_strict(),
            mode: profile.schema,
        }),
    };
    Ok((client, request))
}

/// Puts together what asks.
pub(super) fn asker(
    config: &Config,
    client: Client,
    request: RequestOptions,
    recall: Recall,
    encoding: Encoding,
    schema: Option<Arc<Schema>>,
    messages: &Messages,
) -> Asker {
    let pacer = Pacer::new(paths::state_file(), config.limits);
    let options = AskOptions {
        max_retries: config.retries,
        // Half of a JSON value is none.
        keeps_cut: limits_output(config) && schema.is_none(),
        is_cache_only: config.cache.is_only,
        can_restart: io::stdout().is_terminal(),
        stops: config.on_error == OnError::Stop,
    };
    Asker {
        client: Arc::new(client),
        template: Template::new(request),
        recall,
        gate: Arc::default(),
        pacer: Arc::new(pacer),
        counter: Arc::new(Mutex::new(TokenCounter::new(encoding))),
        schema,
        budget: Arc::default(),
        tariff: Tariff::default(),
        book: Book::default(),
        messages: messages.clone(),
        verdicts: None,
        has_told: Arc::default(),
        options,
    }
}

/// What asks about packs of replies, where they are merged.
pub(super) fn merger(
    config: &Config,
    asker: &Asker,
    url: &str,
    request: RequestOptions,
) -> Option<Asker> {
    let request = RequestOptions {
        prompt: config.reduce.clone()?,
        system: request.system.or_else(|| Some(MERGING.to_owned())),
        ..request
    };
    Some(Asker {
        recall: Recall {
            identity: Identity::new(url, &request),
            cache: asker.recall.cache.clone(),
        },
        template: Template::new(request),
        verdicts: None,
        ..asker.clone()
    })
}

/// One piece of text that is no part of a file; `name` is what messages call it.
pub(super) fn single(name: &str, text: String, recall: &Recall) -> Pieces {
    let (sender, receiver) = mpsc::channel(1);
    let piece = Piece {
        file: Arc::from(name),
        chunk: Chunk {
            text,
            ..Chunk::default()
        },
        is_end: false,
    };
    // There is room for one.
    look_up(vec![piece], recall, |found| {
        sender.try_send(Ok(found)).is_ok()
    });
    receiver
}

/// The profile's address.
pub(super) fn base_url(profile: &Profile) -> Result<String, Error> {
    profile.base_url.clone().ok_or_else(|| {
        let hint = if profile.name == "azure" {
            "put it into AZURE_OPENAI_ENDPOINT, as in https://RESOURCE.openai.azure.com"
        } else {
            "name it with `--base-url`, GPTPIPE_BASE_URL or `base-url` in the configuration file"
        };
        Error::usage_hint(
            format!("the profile `{}` has no address", profile.name),
            hint,
        )
    })
}

/// Whether the user bounds the replies, by option or by parameter.
fn limits_output(config: &Config) -> bool {
    config.max_output_tokens.is_some()
        || config
            .params
            .iter()
            .any(|param| BOUNDS.contains(&param.name.as_str()))
}

/// What is remembered.
pub(super) struct Memory {
    /// None: nothing is.
    pub(super) cache: Option<Cache>,
    /// Whether another run finds it.
    pub(super) lasts: bool,
}

impl Memory {
    /// Waits until all of it is on its way to the disk.
    pub(super) async fn finish(&self, messages: &Messages) {
        if let Some(cache) = &self.cache {
            cache.finish().await;
            if let Some(trouble) = cache.take_trouble() {
                messages.warning(&trouble);
            }
        }
    }
}

/// Opens what is remembered. Where that cannot be used, replies are remembered for the time of the
/// run, so that the same text is still asked about only once.
pub(super) fn open_cache(config: &Config, messages: &Messages) -> Memory {
    let cache = &config.cache;
    let open = |place, is_named, max_bytes| {
        let (cache, warning) = Cache::open(CacheOptions {
            place,
            is_named,
            ttl: cache.ttl,
            is_refresh: cache.is_refresh,
            max_bytes,
        })?;
        if let Some(warning) = warning {
            messages.warning(&warning);
        }
        Ok(cache)
    };
    if !cache.is_enabled {
        return Memory {
            cache: None,
            lasts: false,
        };
    }
    let file = match cache.file.as_deref() {
        Some(":memory:") => None,
        Some(file) => Some(file.into()),
        None => paths::cache_file(),
    };
    let opened = match file {
        Some(file) => open(Place::File(file), cache.file.is_some(), cache.max_bytes),
        None if cache.file.is_some() => Err(String::new()),
        None => Err("there is no home folder to remember replies in; going on without".to_owned()),
    };
    let lasts = opened.is_ok();
    let opened = opened.or_else(|warning| {
        if !warning.is_empty() {
            messages.warning(&warning);
        }
        open(Place::Memory, true, MEMORY_BYTES)
    });
    if let Err(warning) = &opened {
        messages.warning(warning);
    }
    Memory {
        cache: opened.ok(),
        lasts,
    }
}

/// Pieces of the input with what is known about them, as they are cut.
pub(super) type Pieces = mpsc::Receiver<Result<Found, Error>>;

/// Reads of which the pieces wait to be looked up.
const READ_AHEAD: usize = 2;

/// Has what was cut looked up; gives what comes of it, and the threads that are to be waited for.
pub(super) type Begin = Box<dyn FnOnce(Recall) -> (Pieces, Vec<JoinHandle<()>>)>;

/// Reads, cuts and looks up what was cut.
pub(super) fn pieces(
    config: &Config,
    sources: Option<Vec<Source>>,
    prompt: String,
    encoding: Encoding,
    recall: Recall,
) -> Result<(Pieces, Vec<JoinHandle<()>>), Error> {
    read(config, sources, prompt, encoding).map(|begin| begin(recall))
}

/// Starts to read and cut, while others find out what is remembered; without input there is no thread.
pub(super) fn read(
    config: &Config,
    sources: Option<Vec<Source>>,
    prompt: String,
    encoding: Encoding,
) -> Result<Begin, Error> {
    let ahead = match config.by {
        By::File => 2,
        By::Line | By::Paragraph => 64,
        By::Sentence => (CUT_AHEAD / config.chunk_tokens.get()).clamp(2, 64),
    };
    let Some(sources) = sources else {
        return Ok(Box::new(move |recall| {
            (single("the request", prompt, &recall), Vec::new())
        }));
    };
    let (sender, receiver) = mpsc::channel(ahead);
    let options = ChunkerOptions {
        by: config.by,
        max_tokens: config.chunk_tokens.get(),
        encoding,
        context_tokens: config.context,
    };
    let flush_after = config.flush_after;
    let tells_ends = config.in_place.is_some();
    let (tell, told) = sync_channel(1);
    let cutter = spawn("cut", move || {
        let mut finder = Finder {
            told,
            recall: None,
            sender,
            thread: None,
        };
        let result = reader::read(sources, &options, flush_after, tells_ends, |pieces| {
            finder.find(Ok(pieces))
        });
        if let Err(error) = result {
            finder.find(Err(error));
        }
        finder.join();
    })?;
    Ok(Box::new(move |recall| {
        let _ = tell.send(recall);
        (receiver, vec![cutter])
    }))
}

/// What one read brought.
type Cut = Result<Vec<Piece>, Error>;

/// Looks up what was cut. A thread that waits for a database or hashes does not cut meanwhile, so it has one of its own;
/// but not for the first pieces, which are all that most runs have.
struct Finder {
    /// What is remembered, once that is known.
    told: Receiver<Recall>,
    recall: Option<Recall>,
    sender: mpsc::Sender<Result<Found, Error>>,
    thread: Option<(SyncSender<Cut>, JoinHandle<()>)>,
}

impl Finder {
    /// Says whether anybody still wants what is found.
    fn find(&mut self, pieces: Cut) -> bool {
        let Some(recall) = &self.recall else {
            let Ok(recall) = self.told.recv() else {
                return false;
            };
            let is_wanted = send(pieces, &recall, &self.sender);
            self.recall = Some(recall);
            return is_wanted;
        };
        if self.thread.is_none() {
            let (cut, read) = sync_channel(READ_AHEAD);
            let (recall, sender) = (recall.clone(), self.sender.clone());
            let work = move || {
                let _ = read
                    .into_iter()
                    .all(|pieces| send(pieces, &recall, &sender));
            };
            match spawn("look up", work) {
                Ok(thread) => self.thread = Some((cut, thread)),
                Err(error) => {
                    let _ = self.sender.blocking_send(Err(error));
                    return false;
                }
            }
        }
        let thread = self.thread.as_ref();
        thread.is_some_and(|(cut, _)| cut.send(pieces).is_ok())
    }

    /// Waits until all is found.
    fn join(self) {
        if let Some((cut, thread)) = self.thread {
            drop(cut);
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

fn send(pieces: Cut, recall: &Recall, sender: &mpsc::Sender<Result<Found, Error>>) -> bool {
    match pieces {
        Ok(pieces) => look_up(pieces, recall, |found| {
            sender.blocking_send(Ok(found)).is_ok()
        }),
        Err(error) => sender.blocking_send(Err(error)).is_ok(),
    }
}

/// Waits for the threads that read. One that broke off looks like the end of input; a short output
/// must not pass for a whole one.
pub(super) fn join(cutters: Vec<JoinHandle<()>>) -> Result<(), Error> {
    if cutters.into_iter().any(|cutter| cutter.join().is_err()) {
        return Err(Error::System {
            what: "read to the end",
            source: io::Error::other("the thread that cuts the input broke off"),
        });
    }
    Ok(())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|source| Error::System {
            what: "start a thread",
            source,
        })
}

/// Starts the demo, and says so.
pub(super) async fn start_demo(
    system: Option<&str>,
    messages: &Messages,
) -> Result<DemoServer, Error> {
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
