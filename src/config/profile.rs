//! Providers: one table of what is built in, under what the user's file says.

use std::collections::BTreeMap;

use crate::api::address::origin;
use crate::api::batch::{BOUNDS, Bounds};
use crate::api::client::Auth;
use crate::api::event::{Api, End};
use crate::api::request::{Param, SchemaMode};
use crate::config::file::ProfileTable;
#[cfg(feature = "oauth")]
use crate::config::oauth::{OauthTable, SecretPlace};
use crate::error::Error;
use crate::input::token::Encoding;

/// The profile that is used unless another is named.
pub const DEFAULT: &str = "openai";

/// The model of the openai profile: the small, cheap one that `OpenAI`'s model
/// pages recommend where speed and cost matter (November 2026).
pub const DEFAULT_MODEL: &str = "gpt-6-luna";

/// Looks up an environment variable; `None` for an unset or an empty one, which
/// shells cannot tell apart in `VAR= command`.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where a provider's address comes from.
#[derive(Clone, Copy, Debug)]
enum Address {
    /// Always the same.
    Fixed(&'static str),
    /// A variable that has the whole address, or else this one.
    Variable(&'static str, &'static str),
    /// A variable that has the address without its path, and the path.
    Endpoint(&'static str, &'static str),
    /// A variable that has host and port as Ollama writes them, or else this one.
    Host(&'static str, &'static str),
}

/// Those with a Batch API of the form and with the bounds of `OpenAI`'s, at half the price.
pub const BATCH: [&str; 2] = [DEFAULT, "groq"];

/// A line of the table.
#[derive(Clone, Copy, Debug)]
struct BuiltIn {
    name: &'static str,
    address: Address,
    key_env: Option<&'static str>,
    auth: Auth,
    needs_key: bool,
    model: Option<&'static str>,
    encoding: Encoding,
    token_field: &'static str,
    /// Whether the server takes `stream_options`; without it some never count.
    usage: bool,
    schema: SchemaMode,
}

/// What most lines have in common.
const CLOUD: BuiltIn = BuiltIn {
    name: "",
    address: Address::Fixed(""),
    key_env: None,
    auth: Auth::Bearer,
    needs_key: true,
    model: None,
    encoding: Encoding::O200k,
    token_field: "max_tokens",
    usage: true,
    schema: SchemaMode::Native,
};

/// A server of one's own: a key is sent if there is one.
const LOCAL: BuiltIn = BuiltIn {
    needs_key: false,
    ..CLOUD
};

/// Addresses, keys and fields from the providers' own API pages (November 2026).
/// The vocabulary is the nearer of the two that are built in: only `OpenAI`'s
/// models use them as they are.
const BUILT_IN: [BuiltIn; 15] = [
    BuiltIn {
        name: DEFAULT,
        address: Address::Variable("OPENAI_BASE_URL", "https://api.openai.com/v1"),
        key_env: Some("OPENAI_API_KEY"),
        model: Some(DEFAULT_MODEL),
        token_field: "max_completion_tokens",
        ..CLOUD
    },
    BuiltIn {
        name: "azure",
        address: Address::Endpoint("AZURE_OPENAI_ENDPOINT", "/openai/v1"),
        key_env: Some("AZURE_OPENAI_API_KEY"),
        auth: Auth::ApiKey,
        token_field: "max_completion_tokens",
        ..CLOUD
    },
    BuiltIn {
        name: "anthropic",
        address: Address::Fixed("https://api.anthropic.com/v1"),
        key_env: Some("ANTHROPIC_API_KEY"),
        // Its OpenAI-compatible side passes over `response_format`.
        schema: SchemaMode::Prompt,
        encoding: Encoding::Cl100k,
        ..CLOUD
    },
    BuiltIn {
        name: "gemini",
        address: Address::Fixed("https://generativelanguage.googleapis.com/v1beta/openai"),
        key_env: Some("GEMINI_API_KEY"),
        ..CLOUD
    },
    BuiltIn {
        name: "mistral",
        address: Address::Fixed("https://api.mistral.ai/v1"),
        key_env: Some("MISTRAL_API_KEY"),
        // It refuses fields that it does not know, and counts unasked.
        usage: false,
        ..CLOUD
    },
    BuiltIn {
        name: "deepseek",
        address: Address::Fixed("https://api.deepseek.com/v1"),
        key_env: Some("DEEPSEEK_API_KEY"),
        schema: SchemaMode::Object,
        ..CLOUD
    },
    BuiltIn {
        name: "groq",
        address: Address::Fixed("https://api.groq.com/openai/v1"),
        key_env: Some("GROQ_API_KEY"),
        token_field: "max_completion_tokens",
        ..CLOUD
    },
    BuiltIn {
        name: "openrouter",
        address: Address::Fixed("https://openrouter.ai/api/v1"),
        key_env: Some("OPENROUTER_API_KEY"),
        ..CLOUD
    },
    BuiltIn {
        name: "together",
        address: Address::Fixed("https://api.together.ai/v1"),
        key_env: Some("TOGETHER_API_KEY"),
        ..CLOUD
    },
    BuiltIn {
        name: "xai",
        address: Address::Fixed("https://api.x.ai/v1"),
        key_env: Some("XAI_API_KEY"),
        ..CLOUD
    },
    BuiltIn {
        name: "ollama",
        address: Address::Host("OLLAMA_HOST", "127.0.0.1:11434"),
        key_env: Some("OLLAMA_API_KEY"),
        ..LOCAL
    },
    BuiltIn {
        name: "llamacpp",
        address: Address::Fixed("http://127.0.0.1:8080/v1"),
        key_env: Some("LLAMA_API_KEY"),
        // The server has one model and does not look at the name.
        model: Some("default"),
        ..LOCAL
    },
    BuiltIn {
        name: "lmstudio",
        address: Address::Fixed("http://127.0.0.1:1234/v1"),
        key_env: Some("LM_API_TOKEN"),
        ..LOCAL
    },
    BuiltIn {
        name: "vllm",
        address: Address::Fixed("http://127.0.0.1:8000/v1"),
        key_env: Some("VLLM_API_KEY"),
        ..LOCAL
    },
    BuiltIn {
        name: "litellm",
        address: Address::Variable("LITELLM_PROXY_API_BASE", "http://127.0.0.1:4000/v1"),
        key_env: Some("LITELLM_API_KEY"),
        ..LOCAL
    },
];

/// A provider, as a run uses it.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Address of the API, up to and with `/v1`.
    pub base_url: Option<String>,
    /// Kind of API.
    pub api: Api,
    /// Its usual model.
    pub model: Option<String>,
    /// The environment variable that has the key.
    pub key_env: Option<String>,
    /// The command that writes the key.
    pub key_command: Option<String>,
    /// Whether the key may travel unencrypted to another machine.
    pub allows_http: bool,
    /// Whether requests go to another host than the profile's own, to which its key is not sent.
    pub is_foreign: bool,
    /// The header that carries the key.
    pub auth: Auth,
    /// Whether the provider's own address refuses everyone without a key.
    pub needs_key: bool,
    /// The vocabulary that the file names, if it names one.
    pub encoding: Option<Encoding>,
    /// The vocabulary that is nearest.
    pub nearest: Encoding,
    /// The field that bounds a reply.
    pub token_field: String,
    /// What proves the end of a stream.
    pub end: End,
    /// Whether to ask for token counts at the end of a stream.
    pub usage: bool,
    /// How the server is asked to keep to a schema.
    pub schema: SchemaMode,
    /// What a file of its Batch API may hold, if it has one as `OpenAI`'s.
    pub batch: Option<Bounds>,
    /// The header that names a request over all its attempts. No provider of the table documents one
    /// for its replies, but gateways do.
    pub idempotency_header: Option<String>,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// Further fields of the request.
    pub params: Vec<Param>,
    /// Tokens in place of a key.
    #[cfg(feature = "oauth")]
    pub oauth: Option<OauthTable>,
}

/// Finds a profile: what is built in under that name, and over it what the
/// user's file says.
///
/// # Errors
/// [`Error::Usage`] for a name that neither has.
pub fn find(
    name: &str,
    tables: &BTreeMap<String, ProfileTable>,
    environment: Environment<'_>,
) -> Result<Profile, Error> {
    let built_in = BUILT_IN.iter().find(|line| line.name == name);
    let table = tables.get(name);
    if built_in.is_none() && table.is_none() {
        return Err(unknown(name, tables));
    }
    // A profile of the user's own says what it needs by naming a key's variable.
    let line = *built_in.unwrap_or(&LOCAL);
    let mut profile = Profile {
        name: name.to_owned(),
        base_url: address(line.address, environment),
        api: Api::Chat,
        model: line.model.map(str::to_owned),
        key_env: line.key_env.map(str::to_owned),
        key_command: None,
        allows_http: false,
        is_foreign: false,
        auth: line.auth,
        needs_key: line.needs_key,
        encoding: None,
        nearest: line.encoding,
        token_field: line.token_field.to_owned(),
        end: End::FinishReason,
        usage: line.usage,
        schema: line.schema,
        batch: BATCH.contains(&line.name).then_some(BOUNDS),
        idempotency_header: None,
        headers: Vec::new(),
        params: Vec::new(),
        #[cfg(feature = "oauth")]
        oauth: None,
    };
    let is_from_environment = match line.address {
        Address::Fixed(_) => false,
        Address::Variable(variable, _)
        | Address::Endpoint(variable, _)
        | Address::Host(variable, _) => environment(variable).is_some(),
    };
    // Whether another server wants a key is for it to say.
    if matches!(line.address, Address::Variable(..)) && is_from_environment {
        profile.needs_key = false;
    }
    if let Some(table) = table {
        if table.base_url.is_some() && !is_from_environment {
            profile.base_url.clone_from(&table.base_url);
            profile.needs_key = false;
        }
        profile.api = table.api.unwrap_or(profile.api);
        profile.model = table.model.clone().or(profile.model);
        profile.needs_key |= table.key_env.is_some() || table.key_command.is_some();
        profile.key_command.clone_from(&table.key_command);
        profile.allows_http = table.allow_http.unwrap_or(false);
        profile.key_env = table.key_env.clone().or(profile.key_env);
        profile.auth = table.auth.unwrap_or(profile.auth);
        profile.encoding = table.tokenizer;
        profile.token_field = table.token_field.clone().unwrap_or(profile.token_field);
        profile.end = table.end.unwrap_or(profile.end);
        profile.schema = table.schema.unwrap_or(profile.schema);
        profile.usage = table.usage.unwrap_or(profile.usage);
        profile.batch = table.batch.unwrap_or(profile.batch);
        profile
            .idempotency_header
            .clone_from(&table.idempotency_header);
        profile.headers = table.headers.clone().into_iter().collect();
        profile.params.clone_from(&table.params);
        #[cfg(feature = "oauth")]
        profile.oauth.clone_from(&table.oauth);
    }
    Ok(profile)
}

impl Profile {
    /// Sends requests to another address than the profile's own.
    pub fn redirect(&mut self, base_url: String) {
        // Whether another server wants a key is for it to say.
        self.needs_key &= self.base_url.as_ref() == Some(&base_url);
        let own = self.base_url.as_deref().map(origin);
        self.is_foreign = own.is_some_and(|own| own != origin(&base_url));
        self.base_url = Some(base_url);
    }

    /// The vocabulary to count a model's tokens by, and whether it is the
    /// model's own (`OpenAI`'s tiktoken, `model.py`).
    #[must_use]
    pub fn encoding(&self, model: &str) -> (Encoding, bool) {
        if let Some(encoding) = self.encoding {
            return (encoding, true);
        }
        // Gateways put the maker before the name: `openai/gpt-4`.
        let model = model.rsplit('/').next().unwrap_or(model);
        let is = |prefixes: &[&str]| prefixes.iter().any(|prefix| model.starts_with(prefix));
        if is(&[
            "gpt-4o",
            "gpt-4.1",
            "gpt-4.5",
            "gpt-5",
            "gpt-6",
            "gpt-oss",
            "chatgpt-4o",
            "o1",
            "o3",
            "o4",
        ]) {
            (Encoding::O200k, true)
        } else if is(&["gpt-4", "gpt-3.5"]) {
            (Encoding::Cl100k, true)
        } else {
            (self.nearest, false)
        }
    }
}

/// The environment variables that have a key in them, whatever the profile.
#[must_use]
pub fn key_variables(tables: &BTreeMap<String, ProfileTable>) -> Vec<String> {
    let own = tables.values().filter_map(|table| table.key_env.clone());
    let built_in = BUILT_IN.iter().filter_map(|line| line.key_env);
    #[cfg(feature = "oauth")]
    let own = own.chain(tables.values().filter_map(|table| {
        let oauth = table.oauth.as_ref()?;
        match &oauth.client_secret {
            SecretPlace::Variable(name) => Some(name.clone()),
            SecretPlace::Command(_) | SecretPlace::Keyring => None,
        }
    }));
    own.chain(built_in.map(str::to_owned)).collect()
}

/// The name of the profile to use.
#[must_use]
pub fn name(
    typed: Option<String>,
    environment: Environment<'_>,
    in_file: Option<String>,
) -> String {
    typed
        .or_else(|| environment("GPTPIPE_PROFILE"))
        .or(in_file)
        .unwrap_or_else(|| DEFAULT.to_owned())
}

/// The names of all profiles, the user's own among them.
#[must_use]
pub fn names(tables: &BTreeMap<String, ProfileTable>) -> Vec<String> {
    let mut names: Vec<String> = BUILT_IN.iter().map(|line| line.name.to_owned()).collect();
    names.extend(
        tables
            .keys()
            .filter(|name| !BUILT_IN.iter().any(|line| line.name == *name))
            .cloned(),
    );
    names
}

fn unknown(name: &str, tables: &BTreeMap<String, ProfileTable>) -> Error {
    let known = names(tables);
    let nearest = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .filter(|(distance, _)| *distance <= 1 + name.len() / 4)
        .min();
    Error::usage_hint(
        format!("there is no profile `{name}`"),
        match nearest {
            Some((_, known)) => format!("did you mean `{known}`?"),
            None => format!("there are {}", known.join(", ")),
        },
    )
}

fn address(address: Address, environment: Environment<'_>) -> Option<String> {
    match address {
        Address::Fixed("") => None,
        Address::Fixed(url) => Some(url.to_owned()),
        Address::Variable(variable, url) => Some(environment(variable).unwrap_or(url.to_owned())),
        Address::Endpoint(variable, path) => environment(variable).map(|endpoint| {
            let endpoint = endpoint.trim_end_matches('/');
            if endpoint.contains("/openai/") {
                endpoint.to_owned()
            } else {
                format!("{endpoint}{path}")
            }
        }),
        Address::Host(variable, usual) => {
            let host = environment(variable).unwrap_or_else(|| usual.to_owned());
            let (scheme, host) = host.split_once("://").unwrap_or(("http", &host));
            let host = host.trim_end_matches('/');
            // What a server listens on everywhere is reached here.
            let host = host.replace("0.0.0.0", "127.0.0.1");
            let has_port = host
                .rsplit(']')
                .next()
                .is_some_and(|rest| rest.contains(':'));
            let port = if has_port || scheme == "https" {
                ""
            } else {
                ":11434"
            };
            Some(format!("{scheme}://{host}{port}/v1"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn every_line_of_the_table_can_be_used() {
        for line in BUILT_IN {
            let profile = find(line.name, &BTreeMap::new(), &nothing).unwrap();
            match profile.base_url {
                Some(url) => assert!(reqwest::Url::parse(&url).is_ok(), "{url}"),
                None => assert_eq!(line.name, "azure", "the one that has no address of its own"),
            }
            assert!(profile.key_env.is_some(), "{}", line.name);
        }
    }

    #[test]
    fn reads_addresses_as_the_providers_write_them() {
        let with = |name: &str, value: &'static str| {
            find(name, &BTreeMap::new(), &|_| Some(value.to_owned()))
                .unwrap()
                .base_url
                .unwrap()
        };
        assert_eq!(with("ollama", "0.0.0.0"), "http://127.0.0.1:11434/v1");
        assert_eq!(with("ollama", "gpu:9000"), "http://gpu:9000/v1");
        assert_eq!(
            with("ollama", "https://ollama.com/"),
            "https://ollama.com/v1"
        );
        assert_eq!(with("ollama", "[::1]"), "http://[::1]:11434/v1");
        assert_eq!(
            with("azure", "https://r.openai.azure.com/"),
            "https://r.openai.azure.com/openai/v1"
        );
        assert_eq!(
            with("openai", "http://127.0.0.1:1/v1"),
            "http://127.0.0.1:1/v1"
        );
    }

    #[test]
    fn the_users_file_changes_what_is_built_in() {
        let mut tables = BTreeMap::new();
        let table = ProfileTable {
            model: Some("big".to_owned()),
            ..ProfileTable::default()
        };
        tables.insert("mistral".to_owned(), table);
        let profile = find("mistral", &tables, &nothing).unwrap();
        assert_eq!(profile.model.as_deref(), Some("big"));
        assert_eq!(
            profile.base_url.as_deref(),
            Some("https://api.mistral.ai/v1")
        );
        let hint = find("mistal", &tables, &nothing)
            .unwrap_err()
            .hint()
            .unwrap();
        assert_eq!(hint, "did you mean `mistral`?");
    }

    #[test]
    fn counts_by_the_models_own_vocabulary() {
        let profile = find("openrouter", &BTreeMap::new(), &nothing).unwrap();
        assert_eq!(
            profile.encoding("openai/gpt-6-luna"),
            (Encoding::O200k, true)
        );
        assert_eq!(profile.encoding("gpt-4-turbo"), (Encoding::Cl100k, true));
        assert_eq!(profile.encoding("qwen3:8b"), (Encoding::O200k, false));
    }
}
