//! The settings of a run, frozen.
//!
//! Flags over environment over the configuration file over the profile over
//! defaults. The world (environment, file, terminals) is asked once and handed
//! in, so that the rules can be tried without it.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use crate::api::batch::Bounds;
use crate::api::event::Api;
use crate::api::request::Param;
use crate::cli::args::Cli;
use crate::config::file::File;
use crate::config::profile;
use crate::config::profile::Environment;
use crate::config::provider::{self, Provider};
use crate::config::spending::{self, Spending};
use crate::error::Error;
use crate::input::chunk::By;
use crate::limit::concurrency::Jobs;
use crate::limit::pacer::Limits;
use crate::output::format::{Format, Join};
use crate::pipeline::reorder::OnError;
use crate::report::progress::ProgressMode;

/// Upper bound of a chunk, in tokens, where nobody says otherwise.
const CHUNK_TOKENS: usize = 2000;

/// Requests in flight at most, where nobody says otherwise.
const JOBS: Jobs = Jobs::Most(8);

/// Silence after which a server is given up, where nobody says otherwise.
const TIMEOUT: Duration = Duration::from_mins(2);

/// Attempts after the first, where nobody says otherwise.
const RETRIES: u32 = 5;

/// How old a remembered reply may be, where nobody says otherwise.
const CACHE_TTL: Duration = Duration::from_hours(24);

/// The same for a run by batch, which can take days: its first replies have to last until its last.
const BATCH_TTL: Duration = Duration::from_hours(7 * 24);

/// How large the cache may become in bytes, where nobody says otherwise.
const CACHE_SIZE: u64 = 1 << 30;

/// What is remembered, and where.
#[derive(Debug)]
pub struct CacheConfig {
    /// Whether replies are remembered at all.
    pub is_enabled: bool,
    /// The file that the user named; `:memory:` for none.
    pub file: Option<String>,
    /// How old a reply may be.
    pub ttl: Duration,
    /// How large the file may become, in bytes.
    pub max_bytes: u64,
    /// Whether replies from before the run are not used.
    pub is_refresh: bool,
    /// Whether nothing is sent.
    pub is_only: bool,
}

/// What a run does and whom it asks.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Config {
    /// The provider, and where its key may be.
    pub provider: Provider,
    /// The kind of API.
    pub api: Api,
    /// The model; empty where the server has only one.
    pub model: String,
    /// What replaces the framing of the system message.
    pub system: Option<String>,
    /// Further fields of the request.
    pub params: Vec<Param>,
    /// Upper bound of a reply, in tokens.
    pub max_output_tokens: Option<NonZeroU32>,
    /// Upper bound of a chunk, in tokens.
    pub chunk_tokens: NonZeroUsize,
    /// Where to cut.
    pub by: By,
    /// Tokens of the text before a chunk that are shown with it.
    pub context: usize,
    /// When to send an unfinished chunk.
    pub flush_after: Option<Duration>,
    /// Requests in flight at most.
    pub jobs: Jobs,
    /// When a silent server is given up.
    pub timeout: Duration,
    /// What is sent at most, by all processes of the user.
    pub limits: Limits,
    /// Attempts after the first.
    pub retries: u32,
    /// What becomes of the run when a chunk failed for good.
    pub on_error: OnError,
    /// What is remembered, and where.
    pub cache: CacheConfig,
    /// What is recorded and what it costs.
    pub spending: Spending,
    /// The prompt by which replies are merged into one.
    pub reduce: Option<String>,
    /// The file with the schema that replies have to follow.
    pub schema: Option<String>,
    /// Whether files are replaced by what comes of them, and the suffix of what keeps the old ones.
    pub in_place: Option<Option<String>>,
    /// Whether nothing is sent and the plan is written instead.
    pub is_dry_run: bool,
    /// What a file of requests may hold, where these go by the provider's Batch API.
    pub batch: Option<Bounds>,
    /// What a reply is written as.
    pub format: Format,
    /// Whether only the inside of a reply's code fence is wanted.
    pub unfences: bool,
    /// What stands between replies, where that was said.
    pub join: Option<Join>,
    /// Whether to stream the next reply; `None` leaves it to the terminal.
    pub is_live: Option<bool>,
    /// No warnings, no progress.
    pub is_quiet: bool,
    /// A line for each request.
    pub is_verbose: bool,
    /// Whether to show progress.
    pub progress: ProgressMode,
}

/// Settles what is remembered, and where.
#[must_use]
pub fn cache(cli: &Cli, file: &File) -> CacheConfig {
    let table = &file.cache;
    // What is asked of the cache on the command line wants it used.
    let is_wanted = cli.refresh || cli.cache_only || cli.cache.is_some();
    CacheConfig {
        is_enabled: !cli.no_cache && (is_wanted || table.enabled.unwrap_or(true)),
        file: cli.cache.clone().or_else(|| table.file.clone()),
        ttl: cli
            .cache_ttl
            .or(table.ttl)
            .unwrap_or(if cli.batch { BATCH_TTL } else { CACHE_TTL }),
        max_bytes: table.max_size.unwrap_or(CACHE_SIZE),
        is_refresh: cli.refresh,
        is_only: cli.cache_only,
    }
}

/// The profile that a run would use, and the models that are named for it.
///
/// # Errors
/// [`Error::Usage`] for an unknown profile.
pub fn models(
    cli: Cli,
    environment: Environment<'_>,
    file: File,
) -> Result<(String, Vec<String>), Error> {
    let name = profile::name(cli.profile, environment, file.profile);
    let profile = profile::find(&name, &file.profiles, environment)?;
    let named = [environment("GPTPIPE_MODEL"), file.model, profile.model];
    Ok((name, named.into_iter().flatten().collect()))
}

/// The bounds of a batch's files, if batches are asked for.
///
/// # Errors
/// [`Error::Usage`] for what does not go with them.
fn batch(cli: &Cli, cache: &CacheConfig, provider: &Provider) -> Result<Option<Bounds>, Error> {
    if !cli.batch {
        return Ok(None);
    }
    let other = [
        (cli.live, "--live", "replies come all together, hours later"),
        (
            cli.flush_after.is_some(),
            "--flush-after",
            "the input is read to its end first",
        ),
        (cli.cache_only, "--cache-only", "nothing would be sent"),
        (
            cli.no_cache,
            "--no-cache",
            "what a batch brings is found in the cache",
        ),
        (cli.demo, "--demo", "the demo has no Batch API"),
    ];
    if let Some((_, other, why)) = other.iter().find(|(is_given, ..)| *is_given) {
        return Err(Error::usage_hint(
            format!("`--batch` and `{other}` exclude each other: {why}"),
            "leave out one of them",
        ));
    }
    if !cache.is_enabled || cache.file.as_deref() == Some(":memory:") {
        return Err(Error::usage_hint(
            "`--batch` needs a cache that lasts: what a batch brings is found there",
            "name a file with `--cache`",
        ));
    }
    let profile = &provider.profile;
    if profile.batch.is_none() {
        return Err(Error::usage_hint(
            format!(
                "the profile `{}` has no Batch API as OpenAI's",
                profile.name
            ),
            "openai and groq have one; for another server that has, put `batch = true` \
             into its profile",
        ));
    }
    Ok(profile.batch)
}

/// Refuses what does not go with `--in-place`.
fn in_place(cli: &Cli) -> Result<(), Error> {
    if cli.backup.is_some() && !cli.in_place {
        return Err(Error::usage_hint(
            "`--backup` is for what `--in-place` replaces",
            "give both, or neither",
        ));
    }
    let other = [
        (cli.reduce.is_some(), "--reduce"),
        (cli.format == Some(Format::Jsonl), "--format jsonl"),
    ];
    if let Some((_, other)) = other.iter().find(|(is_given, _)| cli.in_place && *is_given) {
        return Err(Error::usage_hint(
            format!("`--in-place` and `{other}` exclude each other"),
            "leave out one of them",
        ));
    }
    Ok(())
}

/// Freezes the settings.
///
/// # Errors
/// [`Error::Usage`] for an unknown profile, a missing model, a missing or
/// unusable address.
pub fn resolve(cli: Cli, environment: Environment<'_>, file: File) -> Result<Config, Error> {
    // Who says that nothing is to be sent must not be overruled by a later word.
    if cli.cache_only && (cli.no_cache || cli.refresh) {
        let other = if cli.no_cache {
            "--no-cache"
        } else {
            "--refresh"
        };
        return Err(Error::usage_hint(
            format!("`--cache-only` and `{other}` exclude each other"),
            "leave out one of them",
        ));
    }
    let cache = cache(&cli, &file);
    let mut spending = spending::settle(&cli, &file.ledger, &file.budget);
    let mut provider = provider::resolve(
        cli.profile.clone(),
        cli.base_url.clone(),
        environment,
        &file,
    )?;
    let batch = batch(&cli, &cache, &provider)?;
    in_place(&cli)?;
    let model = cli
        .model
        .or_else(|| environment("GPTPIPE_MODEL"))
        .or(file.model)
        .or_else(|| provider.profile.model.clone());
    if model.as_ref().is_some_and(String::is_empty) {
        return Err(Error::usage_hint(
            "the name of the model is empty",
            "name one with `-m`, or leave that out for the usual one",
        ));
    }
    let Some(model) = model else {
        return Err(Error::usage_hint(
            format!(
                "no model is named, and the profile `{}` has no usual one",
                provider.profile.name
            ),
            "name one with `-m`, GPTPIPE_MODEL or `model` in the configuration file",
        ));
    };
    spending.price = spending::price(&file.prices, &model);
    // A field of the command line replaces the profile's of the same name.
    let mut params = std::mem::take(&mut provider.profile.params);
    params.extend(cli.param);
    if cli
        .reduce
        .as_ref()
        .is_some_and(|prompt| prompt.trim().is_empty())
    {
        return Err(Error::usage("the prompt of `--reduce` is empty"));
    }
    let is_json = cli.schema.is_some();
    let format = cli.format.unwrap_or(Format::Text);
    let is_live = match (cli.live, cli.whole) {
        // What becomes of a reply is known only at its end.
        _ if format == Format::Jsonl || cli.unfence || is_json || cli.in_place => Some(false),
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    Ok(Config {
        api: cli.api.unwrap_or(provider.profile.api),
        provider,
        model,
        system: cli.system.or(file.system),
        params,
        max_output_tokens: cli.max_output_tokens.or(file.max_output_tokens),
        chunk_tokens: cli
            .chunk_tokens
            .or(file.chunk_tokens)
            .or(NonZeroUsize::new(CHUNK_TOKENS))
            .unwrap_or(NonZeroUsize::MIN),
        by: cli.by.or(file.by).unwrap_or(By::Sentence),
        context: cli.context.or(file.context).unwrap_or(0),
        // What is read to its end first has no pauses.
        flush_after: cli
            .flush_after
            .or(file.flush_after)
            .filter(|_| batch.is_none()),
        jobs: cli.jobs.or(file.jobs).unwrap_or(JOBS),
        timeout: cli.timeout.or(file.timeout).unwrap_or(TIMEOUT),
        limits: Limits {
            rate: cli.rate.or(file.rate),
            token_rate: cli.token_rate.or(file.token_rate),
        },
        retries: cli.retries.or(file.retries).unwrap_or(RETRIES),
        on_error: cli.on_error.or(file.on_error).unwrap_or(OnError::Stop),
        cache,
        spending,
        reduce: cli.reduce,
        schema: cli.schema,
        in_place: cli.in_place.then_some(cli.backup),
        is_dry_run: cli.dry_run,
        batch,
        format,
        unfences: cli.unfence,
        join: cli.join.or(file.join),
        is_live,
        is_quiet: cli.quiet,
        is_verbose: cli.verbose,
        progress: cli.progress.or(file.progress).unwrap_or(ProgressMode::Auto),
    })
}
