//! The parts of a run, made from its settings: whom to ask, and what is remembered.

use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::api::client::{Auth, Client, ClientOptions};
use crate::api::event::Api;
use crate::api::identity::Identity;
use crate::api::request::{
    BOUNDS, FRAMING, MERGING, RESERVED, RequestOptions, SchemaRequest, Template,
};
use crate::config::paths;
use crate::config::profile::Profile;
use crate::config::provider::Provider;
use crate::config::settings::Config;
use crate::demo::{self, DemoServer, Pace};
use crate::error::Error;
use crate::input::token::{Encoding, TokenCounter};
use crate::limit::pacer::Pacer;
use crate::output::schema::Schema;
use crate::pipeline::ask::{AskOptions, Asker};
use crate::pipeline::recall::Recall;
use crate::pipeline::reorder::OnError;
use crate::pipeline::tariff::Tariff;
use crate::report::log::Book;
use crate::report::message::Messages;
use crate::run::task::Task;
use crate::secret::secret::Secret;
use crate::secret::source::Keys;
use crate::store::cache::{Cache, CacheOptions, Place};

/// Silence after which a command gives the server up.
const TIMEOUT: Duration = Duration::from_secs(30);

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
        return Err(Error::usage_hint(
            format!("`--param {}`: gptpipe writes this field itself", param.name),
            match param.name.as_str() {
                "model" => "leave it out; `-m` names the model",
                "instructions" => "leave it out; `-s` sets the system message",
                _ => "leave it out",
            },
        ));
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

/// What a command asks the profile's server with; requests one by one, without a model.
pub(super) fn client(
    provider: &Provider,
    base_url: String,
    api: Api,
    keys: Arc<Keys>,
) -> Result<Client, Error> {
    let profile = &provider.profile;
    Client::new(ClientOptions {
        base_url,
        api,
        end: profile.end,
        keys,
        allows_http: profile.allows_http,
        auth: profile.auth,
        headers: profile.headers.clone(),
        timeout: TIMEOUT,
        jobs: 1,
        idempotency_header: None,
    })
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
