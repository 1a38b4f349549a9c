//! Error bodies as the vendors' documents and users' issues show them, and the headers beside them.

use std::time::{Duration, SystemTime};

use crate::api::failure::{Failure, Kind, Verdict, Wait};
use crate::api::fault::{from_event, from_response};
use crate::api::retry_after::retry_after;
use crate::api::words::{clean, host_of, html_title};

fn fault(status: u16, body: &str) -> Failure {
    from_response(status, &|_| None, body.as_bytes())
}

const BODIES: &[(&str, u16, Kind, &str)] = &[
    // OpenAI, and its guide "Error codes".
    (
        "openai key",
        401,
        Kind::Auth,
        r#"{"error":{"message":"Incorrect API key provided: sk-proj-********abcd. You can find your API key at https://platform.openai.com/account/api-keys.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
    ),
    (
        "openai quota",
        429,
        Kind::Quota,
        r#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#,
    ),
    (
        "openai spend limit",
        429,
        Kind::Quota,
        r#"{"error":{"message":"x","type":"insufficient_quota","code":"project_spend_limit_exceeded"}}"#,
    ),
    (
        "openai credit",
        429,
        Kind::Quota,
        r#"{"error":{"message":"x","type":"billing","code":"credit_balance_exhausted"}}"#,
    ),
    (
        "openai rate",
        429,
        Kind::RateLimit,
        r#"{"error":{"message":"Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please try again in 2s.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#,
    ),
    (
        "openai never fits",
        429,
        Kind::ContextLength,
        r#"{"error":{"message":"Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 41000. The input or output tokens must be reduced in order to run successfully.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#,
    ),
    (
        "openai slow down",
        429,
        Kind::RateLimit,
        r#"{"error":{"message":"x","type":"rate_limit_error","code":"slow_down"}}"#,
    ),
    (
        "openai overloaded",
        503,
        Kind::Overloaded,
        r#"{"error":{"message":"x","type":"service_unavailable_error","code":"server_is_overloaded"}}"#,
    ),
    (
        "openai model",
        404,
        Kind::Model,
        r#"{"error":{"message":"The model `gpt-9` does not exist or you do not have access to it.","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#,
    ),
    (
        "openai context",
        400,
        Kind::ContextLength,
        r#"{"error":{"message":"This model's maximum context length is 128000 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
    ),
    (
        "openai string",
        400,
        Kind::ContextLength,
        r#"{"error":{"message":"Invalid 'messages[1].content': string too long.","type":"invalid_request_error","param":"messages[1].content","code":"string_above_max_length"}}"#,
    ),
    (
        "openai parameter",
        400,
        Kind::BadRequest,
        r#"{"error":{"message":"Unsupported parameter: 'max_tokens'","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}"#,
    ),
    (
        "openai country",
        403,
        Kind::Forbidden,
        r#"{"error":{"code":"unsupported_country_region_territory","message":"Country, region, or territory not supported","param":null,"type":"request_forbidden"}}"#,
    ),
    (
        "openai path",
        404,
        Kind::NotFound,
        r#"{"error":{"message":"Invalid URL (POST /chat/completions)","type":"invalid_request_error","param":null,"code":null}}"#,
    ),
    (
        "openai server",
        500,
        Kind::Server,
        r#"{"error":{"message":"The server had an error while processing your request. Sorry about that!","type":"server_error","param":null,"code":null}}"#,
    ),
    // Azure: openai/openai-dotnet#55.
    (
        "azure filter",
        400,
        Kind::Filtered,
        r#"{"error":{"message":"The response was filtered","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":true,"severity":"high"}}}}}"#,
    ),
    (
        "azure deployment",
        404,
        Kind::Model,
        r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}"#,
    ),
    (
        "azure key",
        401,
        Kind::Auth,
        r#"{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint."}}"#,
    ),
    // Anthropic, "Errors".
    (
        "anthropic overloaded",
        529,
        Kind::Overloaded,
        r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_011"}"#,
    ),
    (
        "anthropic context",
        400,
        Kind::ContextLength,
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 205351 tokens > 200000 maximum"}}"#,
    ),
    (
        "anthropic model",
        404,
        Kind::Model,
        r#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-none"}}"#,
    ),
    (
        "anthropic path",
        404,
        Kind::NotFound,
        r#"{"type":"error","error":{"type":"not_found_error","message":"Not found"}}"#,
    ),
    (
        "anthropic billing",
        402,
        Kind::Quota,
        r#"{"type":"error","error":{"type":"billing_error","message":"x"}}"#,
    ),
    (
        "anthropic credit",
        400,
        Kind::Quota,
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}"#,
    ),
    (
        "anthropic permission",
        403,
        Kind::Forbidden,
        r#"{"type":"error","error":{"type":"permission_error","message":"x"}}"#,
    ),
    (
        "anthropic size",
        413,
        Kind::TooLarge,
        r#"{"type":"error","error":{"type":"request_too_large","message":"x"}}"#,
    ),
    // Gemini: n4ze3m/page-assist#406, continuedev/continue#10530.
    (
        "gemini rate",
        429,
        Kind::RateLimit,
        r#"[{"error":{"code":429,"message":"Resource has been exhausted (e.g. check quota).","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"36s"}]}}]"#,
    ),
    (
        "gemini key",
        400,
        Kind::Auth,
        r#"[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}]"#,
    ),
    (
        "gemini key, wrapped",
        400,
        Kind::Auth,
        r#"{"error":{"message":"{\"error\":{\"code\":400,\"message\":\"API key not valid.\",\"status\":\"INVALID_ARGUMENT\",\"details\":[{\"reason\":\"API_KEY_INVALID\"}]}}","code":400,"status":"Bad Request"}}"#,
    ),
    (
        "gemini model",
        404,
        Kind::Model,
        r#"[{"error":{"code":404,"message":"models/none is not found for API version v1main, or is not supported for generateContent.","status":"NOT_FOUND"}}]"#,
    ),
    (
        "gemini overloaded",
        503,
        Kind::Overloaded,
        r#"[{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}]"#,
    ),
    // Mistral: agent0ai/agent-zero#539, coolcline/CoolCline#36, raycast/extensions#31107, continuedev/continue#6185.
    (
        "mistral key",
        401,
        Kind::Auth,
        r#"{"detail":"Unauthorized"}"#,
    ),
    (
        "mistral key, new",
        401,
        Kind::Auth,
        r#"{"message":"Unauthorized","request_id":"933f233947ff6d346065bb297e4a4d56"}"#,
    ),
    (
        "mistral rate",
        429,
        Kind::RateLimit,
        r#"{"object":"error","message":"Rate limit exceeded","type":"rate_limited","param":null,"code":"1300","raw_status_code":429}"#,
    ),
    (
        "mistral capacity",
        429,
        Kind::RateLimit,
        r#"{"object":"error","message":"Service tier capacity exceeded for this model.","type":"invalid_request_error","param":null,"code":null}"#,
    ),
    (
        "mistral model",
        400,
        Kind::Model,
        r#"{"object":"error","message":"Invalid model: none","type":"invalid_model","param":null,"code":"1500"}"#,
    ),
    (
        "mistral field",
        422,
        Kind::BadRequest,
        r#"{"detail":[{"type":"extra_forbidden","loc":["body","foo"],"msg":"Extra inputs are not permitted","input":1}]}"#,
    ),
    // vLLM: harbor-framework/harbor#996 and its older form.
    (
        "vllm context",
        400,
        Kind::ContextLength,
        r#"{"error":{"message":"You passed 1015 input tokens and requested 10 output tokens. However, the model's context length is only 1024 tokens, resulting in a maximum input length of 1014 tokens.","type":"BadRequestError","param":"input_tokens","code":400}}"#,
    ),
    (
        "vllm context, old",
        400,
        Kind::ContextLength,
        r#"{"object":"error","message":"This model's maximum context length is 4096 tokens. However, you requested 5000 tokens","type":"BadRequestError","param":null,"code":400}"#,
    ),
    (
        "vllm model",
        404,
        Kind::Model,
        r#"{"object":"error","message":"The model `none` does not exist.","type":"NotFoundError","param":null,"code":404}"#,
    ),
    (
        "vllm path",
        404,
        Kind::NotFound,
        r#"{"detail":"Not Found"}"#,
    ),
    // Ollama: ollama/ollama#718, netease-youdao/QAnything#555.
    (
        "ollama model",
        404,
        Kind::Model,
        r#"{"error":"model 'mistral' not found, try pulling it first"}"#,
    ),
    (
        "ollama model, /v1",
        404,
        Kind::Model,
        r#"{"error":{"message":"model \"x\" not found, try pulling it first","type":"api_error","param":null,"code":null}}"#,
    ),
    // OpenRouter, "Errors and debugging" and "Limits".
    (
        "openrouter credit",
        402,
        Kind::Quota,
        r#"{"error":{"code":402,"message":"Insufficient credits","metadata":{"limit_source":"openrouter_credits"}}}"#,
    ),
    (
        "openrouter running",
        402,
        Kind::RateLimit,
        r#"{"error":{"code":402,"message":"x","metadata":{"error_type":"payment_required","limit_source":"openrouter_in_flight_budget"}}}"#,
    ),
    (
        "openrouter key limit",
        403,
        Kind::Quota,
        r#"{"error":{"code":403,"message":"x","metadata":{"limit_source":"openrouter_key_limit"}}}"#,
    ),
    (
        "openrouter flagged",
        403,
        Kind::Filtered,
        r#"{"error":{"code":403,"message":"x","metadata":{"reasons":["violence"],"flagged_input":"x","provider_name":"y"}}}"#,
    ),
    (
        "openrouter model",
        400,
        Kind::Model,
        r#"{"error":{"message":"none/none is not a valid model ID","code":400},"user_id":"u"}"#,
    ),
    (
        "openrouter provider",
        502,
        Kind::Server,
        r#"{"error":{"code":502,"message":"Provider returned error","metadata":{"raw":"upstream hung up","provider_name":"y"}}}"#,
    ),
    // LiteLLM: BerriAI/litellm#16231 and its proxy's exceptions.
    (
        "litellm filter",
        400,
        Kind::Filtered,
        r#"{"error":{"message":"litellm.BadRequestError: litellm.ContentPolicyViolationError: AzureException - x","type":null,"param":null,"code":"400","provider_specific_fields":{"innererror":{"code":"ResponsibleAIPolicyViolation"}}}}"#,
    ),
    (
        "litellm budget",
        400,
        Kind::Quota,
        r#"{"error":{"message":"Budget has been exceeded! Current cost: 2, Max budget: 1","type":"budget_exceeded","param":null,"code":"400"}}"#,
    ),
    (
        "litellm key",
        401,
        Kind::Auth,
        r#"{"error":{"message":"Authentication Error, Invalid proxy server token passed. Received API Key = sk-...abcd, Key Hash (Token) =88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b.","type":"token_not_found_in_db","param":"key","code":"401"}}"#,
    ),
    // DeepSeek, "Error codes".
    (
        "deepseek balance",
        402,
        Kind::Quota,
        r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}"#,
    ),
    (
        "deepseek model",
        400,
        Kind::Model,
        r#"{"error":{"message":"Model Not Exist","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#,
    ),
    (
        "deepseek filter",
        400,
        Kind::Filtered,
        r#"{"error":{"message":"Content Exists Risk","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#,
    ),
    // Groq, Moonshot.
    (
        "groq size",
        413,
        Kind::TooLarge,
        r#"{"error":{"message":"Request too large for model `x`","type":"tokens","code":"rate_limit_exceeded"}}"#,
    ),
    (
        "moonshot quota",
        429,
        Kind::Quota,
        r#"{"error":{"message":"x","type":"exceeded_current_quota_error"}}"#,
    ),
    (
        "moonshot busy",
        429,
        Kind::Overloaded,
        r#"{"error":{"message":"x","type":"engine_overloaded_error"}}"#,
    ),
    // Web servers in between.
    (
        "nginx 502",
        502,
        Kind::Server,
        "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center><h1>502 Bad Gateway</h1></center></body></html>",
    ),
    (
        "nginx 413",
        413,
        Kind::TooLarge,
        "<html><head><title>413 Request Entity Too Large</title></head></html>",
    ),
    (
        "nginx 429",
        429,
        Kind::RateLimit,
        "<html><head><title>429 Too Many Requests</title></head></html>",
    ),
    (
        "haproxy 503",
        503,
        Kind::Overloaded,
        "<html><body><h1>503 Service Unavailable</h1>\nNo server is available.\n</body></html>",
    ),
    (
        "apache 401",
        401,
        Kind::Auth,
        "<!DOCTYPE HTML PUBLIC \"-//IETF//DTD HTML 2.0//EN\"><html><head><title>401 Unauthorized</title></head></html>",
    ),
    ("gateway 504", 504, Kind::Server, "upstream request timeout"),
    ("nothing", 500, Kind::Server, ""),
    ("null", 500, Kind::Server, "null"),
    ("busy", 409, Kind::Busy, ""),
    ("slow", 408, Kind::Busy, ""),
    ("early", 425, Kind::Busy, ""),
    (
        "method",
        405,
        Kind::NotFound,
        r#"{"detail":"Method Not Allowed"}"#,
    ),
    ("proxy", 407, Kind::Proxy, ""),
    (
        "not implemented",
        501,
        Kind::BadRequest,
        r#"{"error":{"code":501,"message":"x","type":"not_supported_error"}}"#,
    ),
];

#[test]
fn every_vendors_error_has_its_kind() {
    for (name, status, kind, body) in BODIES {
        let failure = fault(*status, body);
        assert_eq!(failure.kind, *kind, "{name}: {failure}");
        assert_eq!(failure.status, Some(*status), "{name}");
        let shown = failure.to_string();
        assert!(
            !shown.ends_with('.') && !shown.contains(['\n', '{', '<']),
            "{name}: {shown}"
        );
    }
}

#[test]
fn failures_speak_plainly() {
    let show = |name: &str| {
        let (_, status, _, body) = BODIES.iter().find(|row| row.0 == name).unwrap();
        fault(*status, body).to_string()
    };
    assert_eq!(
        show("openai key"),
        "the server refused the key: 401 invalid_api_key: Incorrect API key provided: [redacted]. You can find \
         your API key at https://platform.openai.com/account/api-keys"
    );
    assert_eq!(show("nginx 502"), "the server failed: 502: 502 Bad Gateway");
    assert_eq!(
        show("gemini rate"),
        "the rate limit was reached: 429 RESOURCE_EXHAUSTED: Resource has been exhausted (e.g. check quota)"
    );
    assert_eq!(
        show("mistral field"),
        "the server does not accept the request: 422: Extra inputs are not permitted"
    );
    assert_eq!(
        show("openrouter provider"),
        "the server failed: 502: Provider returned error: upstream hung up"
    );
    let shown = show("litellm key");
    assert!(
        !shown.contains("88dc28d0") && shown.contains("[redacted]"),
        "{shown}"
    );
    assert_eq!(show("nothing"), "the server failed: 500");
}

#[test]
fn verdicts() {
    let verdict = |status| fault(status, "").verdict();
    for status in [408, 409, 425, 429, 500, 502, 503, 504, 529] {
        assert_eq!(verdict(status), Verdict::Transient, "{status}");
    }
    for status in [301, 302, 307, 401, 402, 403, 404, 405, 407] {
        assert_eq!(verdict(status), Verdict::FatalForAll, "{status}");
    }
    for status in [400, 413, 422, 501] {
        assert_eq!(verdict(status), Verdict::Fatal, "{status}");
    }
    let asked = |status, answer: &str| {
        let header = |name: &str| (name == "x-should-retry").then(|| answer.to_owned());
        from_response(status, &header, b"").verdict()
    };
    assert_eq!(asked(500, "false"), Verdict::Fatal);
    assert_eq!(asked(400, "true"), Verdict::Transient);
    assert_eq!(asked(401, "true"), Verdict::FatalForAll);
    assert_eq!(asked(500, "perhaps"), Verdict::Transient);
    for kind in [
        Kind::Empty,
        Kind::Cut,
        Kind::EventError,
        Kind::Malformed,
        Kind::Timeout(Wait::Idle),
        Kind::Dns,
    ] {
        assert_eq!(Failure::new(kind, "").verdict(), Verdict::Transient);
    }
    assert!(Kind::ContextLength.is_too_long() && !Kind::RateLimit.is_too_long());
    assert!(fault(404, "").hint().unwrap().contains("/v1"));
}

#[test]
fn redirects_name_the_host_alone() {
    let to = |location: &str| {
        let header = |name: &str| (name == "location").then(|| location.to_owned());
        from_response(307, &header, b"<html>moved</html>").to_string()
    };
    assert_eq!(
        to("https://user:pass@other.example:8443/v1?key=abc"),
        "the server redirects, which is not followed: 307: to other.example:8443"
    );
    assert!(to("/login?next=x").ends_with("to another path of the same host"));
    let nowhere = from_response(302, &|_: &str| None, b"");
    assert!(
        nowhere
            .to_string()
            .ends_with("302: without saying where to")
    );
    assert_eq!(host_of("//cdn.example/x").as_deref(), Some("cdn.example"));
    assert_eq!(host_of("https://?x"), None);
}

#[test]
fn waits_by_all_their_names() {
    let date = |text: &str| httpdate::parse_http_date(text).unwrap();
    let now = date("Sun, 06 Nov 1994 08:49:07 GMT");
    let wait = |headers: &[(&str, &str)]| {
        let header = |name: &str| {
            headers
                .iter()
                .find(|row| row.0 == name)
                .map(|row| row.1.to_owned())
        };
        retry_after(&header, now)
    };
    let seconds = Duration::from_secs;
    for (value, expected) in [
        ("7", Some(seconds(7))),
        (" 1.5 ", Some(Duration::from_millis(1500))),
        ("0", Some(Duration::ZERO)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", Some(seconds(30))),
        ("Sunday, 06-Nov-94 08:49:37 GMT", Some(seconds(30))),
        ("Sun Nov  6 08:49:37 1994", Some(seconds(30))),
        ("Sun, 06 Nov 1994 08:00:00 GMT", Some(Duration::ZERO)),
        ("-5", None),
        ("NaN", None),
        ("soon", None),
        ("", None),
        ("1e300", Some(seconds(366 * 86_400))),
        ("inf", Some(seconds(366 * 86_400))),
        ("99999999999999999999", Some(seconds(366 * 86_400))),
        ("Fri, 31 Dec 9999 23:59:59 GMT", Some(seconds(366 * 86_400))),
    ] {
        assert_eq!(wait(&[("retry-after", value)]), expected, "{value}");
    }
    assert_eq!(
        wait(&[("retry-after-ms", "250"), ("retry-after", "9")]),
        Some(Duration::from_millis(250))
    );
    assert_eq!(
        wait(&[("retry-after-ms", "x"), ("retry-after", "9")]),
        Some(seconds(9))
    );
    assert_eq!(
        wait(&[("llm_provider-retry-after", "60")]),
        Some(seconds(60))
    );
    let reset = ("x-ratelimit-reset-tokens", "6m0.5s");
    assert_eq!(
        wait(&[reset, ("x-ratelimit-remaining-tokens", "0")]),
        Some(Duration::from_millis(360_500))
    );
    assert_eq!(wait(&[reset, ("x-ratelimit-remaining-tokens", "12")]), None);
    assert_eq!(
        wait(&[
            ("x-ratelimit-reset-requests", "20ms"),
            ("x-ratelimit-remaining-requests", "0")
        ]),
        Some(Duration::from_millis(20))
    );
    assert_eq!(
        wait(&[
            ("x-ratelimit-reset-requests", "9s9"),
            ("x-ratelimit-remaining-requests", "0")
        ]),
        None
    );

    // The server's own clock counts, not ours.
    let later = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + seconds(1_000_060));
    let header = |name: &str| match name {
        "date" => Some(httpdate::fmt_http_date(
            SystemTime::UNIX_EPOCH + seconds(1_000_000),
        )),
        "retry-after" => Some(later.clone()),
        _ => None,
    };
    assert_eq!(
        from_response(503, &header, b"").retry_after,
        Some(seconds(60))
    );
    let gemini = BODIES.iter().find(|row| row.0 == "gemini rate").unwrap();
    assert_eq!(fault(429, gemini.3).retry_after, Some(seconds(36)));
    let busy = |name: &str| (name == "retry-after").then(|| "3".to_owned());
    assert_eq!(from_response(402, &busy, b"").kind, Kind::RateLimit);
}

#[test]
fn keys_are_never_repeated() {
    for (said, shown) in [
        ("key sk-abc123def is bad", "key [redacted] is bad"),
        (
            "Authorization: Bearer abcdefgh/ijkl+mn== was refused",
            "Authorization: Bearer [redacted] was refused",
        ),
        ("no bearer token", "no bearer token"),
        (
            "Your api key: ****7890 is invalid",
            "Your api key: [redacted] is invalid",
        ),
        ("?key=AIzaSyA-1234567890&alt=sse", "?key=[redacted]&alt=sse"),
        ("gsk_0123456789abcdef", "[redacted]"),
        ("hash 0123456789abcdef0123456789abcdef", "hash [redacted]"),
        (
            "model meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8",
            "model meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8",
        ),
        ("task-oriented ask-me", "task-oriented ask-me"),
    ] {
        assert_eq!(clean(said), shown);
    }
    let failure = fault(
        401,
        r#"{"error":{"message":"wrong: hunter2","code":"hunter2"}}"#,
    )
    .without_secret("hunter2");
    assert!(!format!("{failure} {failure:?}").contains("hunter2"));
}

#[test]
fn words_are_one_short_line() {
    assert_eq!(
        clean("  a\r\n\tb\u{1b}[31mred\u{202e}\u{7}  c.  "),
        "a b [31mred c"
    );
    let long = clean(&"ä ".repeat(5_000));
    assert_eq!(long.chars().count(), 501);
    assert!(long.ends_with('…'));
    assert_eq!(
        html_title("<p>Just <b>some</b> words</p>"),
        "Just some words"
    );
    assert_eq!(html_title("<title></title><h1 class=x>Sorry</h1>"), "Sorry");
    let header =
        |name: &str| (name == "x-request-id").then(|| format!("a\u{1b}b{}", "x".repeat(500)));
    assert_eq!(
        from_response(500, &header, b"").request_id.unwrap().len(),
        128
    );
    let failure = from_event(
        r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}"#,
    );
    assert_eq!(
        (failure.request_id.as_deref(), failure.kind),
        (Some("req_1"), Kind::Overloaded)
    );
}
