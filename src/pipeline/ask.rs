//! One chunk: from its text to its reply, whatever it takes.
//!
//! What is remembered is not asked for. What fails for now is asked for again,
//! after a wait and through the gate that all requests pass. What is too long is
//! asked about in halves. A whole reply is remembered before anybody gets to see
//! the end of it.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::api::client::{Attempt, Client};
use crate::api::failure::{Failure, Kind, Verdict};
use crate::api::reply::{Finish, Reply};
use crate::api::request::Template;
use crate::api::retry::{Next, PATIENCE, Retry};
use crate::input::halve::halve;
use crate::input::token::TokenCounter;
use crate::limit::budget::Budget;
use crate::limit::concurrency::{Concurrency, Permit};
use crate::limit::gate::Gate;
use crate::limit::pacer::Pacer;
use crate::output::schema::Schema;
use crate::output::trim::Trim;
use crate::pipeline::dropped::check_input;
use crate::pipeline::mend::{Checked, check};
use crate::pipeline::place::Place;
use crate::pipeline::recall::{Halves, Recall, join};
use crate::pipeline::room::Share;
use crate::pipeline::tariff::Tariff;
use crate::pipeline::task::{Live, Outcome};
use crate::pipeline::verdicts::Verdicts;
use crate::report::log::Book;
use crate::report::message::Messages;
use crate::store::cache::{Entry, Key};

/// How one chunk is asked about.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a rule of its own")]
pub struct AskOptions {
    /// Attempts after the first.
    pub max_retries: u32,
    /// Whether a reply that reached its length limit is taken as it is: the user set the limit.
    pub keeps_cut: bool,
    /// Whether nothing is sent at all.
    pub is_cache_only: bool,
    /// Whether what was shown of a reply may be shown anew: on a terminal.
    pub can_restart: bool,
    /// Whether every failure ends the run.
    pub stops: bool,
}

/// What all requests of a run share. A clone asks at the same pace, through the same gate.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Whom to ask.
    pub client: Arc<Client>,
    /// The requests but for their chunks.
    pub template: Template,
    /// What is remembered.
    pub recall: Recall,
    /// Closed while the server wants to be left alone.
    pub gate: Arc<Gate>,
    /// Waits for the slots that all processes share.
    pub pacer: Arc<Pacer>,
    /// Counts what the server should count.
    pub counter: Arc<Mutex<TokenCounter>>,
    /// What replies have to follow.
    pub schema: Option<Arc<Schema>>,
    /// What may be spent.
    pub budget: Arc<Budget>,
    /// What requests cost.
    pub tariff: Tariff,
    /// The record of the requests.
    pub book: Book,
    /// Standard error.
    pub messages: Messages,
    /// What batches said already; none without `--batch`.
    pub verdicts: Option<Arc<Verdicts>>,
    /// Whether the user was told that requests fail and are sent again.
    pub has_told: Arc<AtomicBool>,
    /// How to go about it.
    pub options: AskOptions,
}

/// A chunk to be asked about.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) place: Place,
    pub(super) text: String,
    pub(super) context: String,
    pub(super) key: Key,
}

/// What the tasks of a run share besides.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    /// Hands out leave to have a request in flight.
    pub(super) concurrency: Arc<Concurrency>,
    /// The number of the first chunk that ended the run: what comes after it need not be asked for.
    pub(super) over: watch::Sender<u64>,
}

impl Asker {
    /// Whether a failure ends the run.
    pub(super) fn ends_run(&self, failure: &Failure) -> bool {
        self.options.stops || is_hopeless(failure)
    }

    /// Asks about a chunk until there is a reply or no hope of one.
    pub(super) async fn answer(
        self: Arc<Self>,
        work: Work,
        permit: Permit,
        traffic: Traffic,
        live: Option<Arc<Live>>,
        share: Arc<Share>,
    ) -> Outcome {
        let began = Instant::now();
        let mut asking = Asking {
            asker: &self,
            place: &work.place,
            traffic: &traffic,
            permit: Some(permit),
            live: live.as_deref(),
            streams: true,
            attempts: 0,
        };
        let result = asking
            .text(work.key, &work.text, &work.context, &mut None)
            .await;
        let attempts = asking.attempts;
        if let Ok(reply) = &result {
            share.add(reply.text.len());
        }
        if let Err(failure) = &result
            && self.ends_run(failure)
        {
            let number = work.place.number;
            traffic.over.send_if_modified(|first| {
                let is_first = number < *first;
                *first = number.min(*first);
                is_first
            });
        }
        Outcome {
            result,
            attempts,
            took: began.elapsed(),
        }
    }
}

/// Whether every other request would fail too, or would have to wait too long.
pub(super) fn is_hopeless(failure: &Failure) -> bool {
    match failure.verdict() {
        Verdict::FatalForAll => true,
        Verdict::Transient => failure.retry_after.is_some_and(|wait| wait > PATIENCE),
        Verdict::Fatal => false,
    }
}

/// What names a request over all its attempts.
fn request_name() -> String {
    format!("gptpipe-{:032x}", fastrand::u128(..))
}

/// One chunk while it is asked about.
pub(super) struct Asking<'a> {
    pub(super) asker: &'a Asker,
    pub(super) place: &'a Place,
    pub(super) traffic: &'a Traffic,
    /// Held while a request is in flight, and not while nothing is.
    pub(super) permit: Option<Permit>,
    live: Option<&'a Live>,
    /// Whether what comes is shown. Not any more once a part of something longer began anew: the
    /// parts before it would be missing.
    streams: bool,
    pub(super) attempts: u32,
}

impl Asking<'_> {
    /// The reply to a text. With `trim`, what is shown live is part of something longer.
    fn text<'s>(
        &'s mut self,
        key: Key,
        text: &'s str,
        context: &'s str,
        trim: &'s mut Option<Trim>,
    ) -> BoxFuture<'s, Result<Reply, Failure>> {
        Box::pin(async move {
            match self.asker.recall.entry(&key) {
                Some(Entry::Reply(reply)) => {
                    self.show(&reply.text, trim);
                    return Ok(reply);
                }
                Some(Entry::Split { end, start }) => {
                    if let Some(halves) = Halves::of(text, context, end, start) {
                        return self.halves(halves).await;
                    }
                }
                None => {}
            }
            self.tell_trouble();
            if self.asker.options.is_cache_only {
                return Err(Failure::new(Kind::NotCached, ""));
            }
            let keeps_cut = self.asker.options.keeps_cut;
            let verdicts = self.asker.verdicts.as_ref();
            let said = verdicts.and_then(|verdicts| verdicts.answer(&key, keeps_cut));
            self.attempts += u32::from(said.is_some());
            let result = match said {
                Some(result) => result,
                None => self.attempts(&key, text, context, trim).await,
            };
            let mut failure = match result {
                Ok(reply) => {
                    if matches!(reply.finish, Finish::Stop | Finish::Done) {
                        self.remember(key, Entry::Reply(reply.clone())).await;
                    }
                    return Ok(reply);
                }
                Err(failure) => failure,
            };
            if !failure.kind.is_too_long() || self.is_pointless() {
                return Err(failure);
            }
            // Two JSON values are not one.
            if self.asker.schema.is_some() {
                let hint = "try a smaller -c: what follows a schema is not asked about in parts";
                failure.hint = Some(hint.into());
                return Err(failure);
            }
            let halves = halve(text).and_then(|(end, start)| {
                Some((end, start, Halves::of(text, context, end, start)?))
            });
            let Some((end, start, halves)) = halves else {
                return Err(failure);
            };
            if !self.restart(trim.is_some()) {
                return Err(failure);
            }
            self.asker.messages.note(&format!(
                "{}: {}; asking about it in two parts",
                self.place.name(),
                failure.kind.phrase()
            ));
            self.remember(key, Entry::Split { end, start }).await;
            self.halves(halves).await
        })
    }

    /// The reply to a text from its halves, one after the other: the first that fails spares the
    /// other.
    async fn halves(&mut self, halves: Halves<'_>) -> Result<Reply, Failure> {
        let mut replies = [Reply::default(), Reply::default()];
        let parts = [(halves.left, ""), (halves.right, halves.gap)];
        for (((text, context), gap), place) in parts.into_iter().zip(&mut replies) {
            self.show(gap, &mut None);
            let key = self.asker.recall.key(text, &context);
            let mut trim = Some(Trim::default());
            *place = self.text(key, text, &context, &mut trim).await?;
        }
        let [left, right] = &replies;
        Ok(join(left, halves.gap, right))
    }

    /// Sends a request until it is answered or given up.
    async fn attempts(
        &mut self,
        key: &Key,
        text: &str,
        context: &str,
        trim: &mut Option<Trim>,
    ) -> Result<Reply, Failure> {
        let mut body = Bytes::from(self.asker.template.body(text, context));
        let mut wrong: Option<Reply> = None;
        let mut tokens = self.asker.tokens(&[context, text]);
        let mut name = request_name();
        let mut retry = Retry::new(self.asker.options.max_retries);
        let mut is_fresh = false;
        // Only now is a key needed, and only with it is it known whose limits hold.
        self.asker
            .pacer
            .name_it(self.asker.client.identity().await?);
        self.asker
            .book
            .name_key(|| self.asker.client.key_fingerprint());
        self.tell_trouble();
        loop {
            let mut leave = self.ready(tokens).await?;
            // Another process may have been faster while this one waited.
            if retry.attempts() > 0
                && let Some(Entry::Reply(reply)) = self.asker.recall.entry(key)
            {
                self.show(&reply.text, trim);
                return Ok(reply);
            }
            if let Some(leave) = &mut leave {
                leave.begin();
            }
            let began = Instant::now();
            let entry = self.asker.book.attempt(&key.0, self.attempts + 1);
            let attempt = Attempt {
                body: body.clone(),
                idempotency_key: Some(&name),
                is_fresh,
                on_send: entry.on_send(),
            };
            let result = self
                .asker
                .client
                .ask(attempt, |piece| self.show(piece, trim))
                .await;
            self.attempts += 1;
            self.asker.settle(tokens, &result).await;
            if let Some(leave) = leave {
                leave.settle(self.asker.used(tokens, &result));
            }
            let sent = [self.asker.template.system(), context, text];
            let result = result.and_then(|reply| check_input(reply, sent, &self.asker.counter));
            entry.end(match &result {
                Err(failure) => self.cut(failure).ok_or(failure),
                Ok(reply) => Ok(reply),
            });
            let schema = self.asker.schema.as_deref();
            let result = result.and_then(|reply| check(schema, reply, wrong.take()));
            let failure = match result {
                Ok(Checked::Wrong(reply, faults)) => {
                    self.tell_faults(&reply, &faults, began.elapsed());
                    let template = &self.asker.template;
                    body = Bytes::from(template.mending_body(text, context, &reply.text, &faults));
                    tokens = self.asker.tokens(&[context, text, &reply.text, &faults]);
                    // Whoever knows a request by its name would answer with the reply before.
                    name = request_name();
                    wrong = Some(reply);
                    continue;
                }
                Ok(Checked::Right(reply)) => {
                    self.tell_success(&reply, began.elapsed());
                    let limit = self.permit.as_ref().and_then(Permit::succeeded);
                    self.tell_limit(limit, "there is room");
                    self.asker
                        .hold_back(&reply, self.traffic.concurrency.in_flight())
                        .await;
                    return Ok(reply);
                }
                Err(failure) => failure,
            };
            if let Some(cut) = self.cut(&failure) {
                self.tell_success(cut, began.elapsed());
                return Ok(cut.clone());
            }
            if matches!(failure.kind, Kind::RateLimit | Kind::Overloaded) {
                let limit = self.permit.as_ref().and_then(Permit::refused);
                self.tell_limit(limit, failure.kind.phrase());
            }
            let took = began.elapsed();
            let mut next = retry.next(&failure, fastrand::f64());
            if let Next::Again(_) = next
                && (self.is_pointless() || !self.restart(trim.is_some()))
            {
                next = Next::GiveUp;
            }
            self.tell_failure(&failure, took, next);
            let Next::Again(wait) = next else {
                return Err(failure);
            };
            *trim = trim.as_ref().map(|_| Trim::default());
            self.permit = None;
            is_fresh = failure.kind == Kind::Closed;
            self.asker.close_gate(&failure, wait).await;
            if self.unless_over(tokio::time::sleep(wait)).await.is_err() {
                return Err(failure);
            }
        }
    }

    /// The reply that was cut at a limit that the user set: it is taken as it is.
    fn cut<'f>(&self, failure: &'f Failure) -> Option<&'f Reply> {
        let is_wanted = failure.kind == Kind::Length && self.asker.options.keeps_cut;
        failure.partial.as_deref().filter(|_| is_wanted)
    }

    /// Whether a chunk before this one ended the run.
    fn is_pointless(&self) -> bool {
        *self.traffic.over.borrow() < self.place.number
    }

    /// Hands text to whoever watches.
    fn show(&self, text: &str, trim: &mut Option<Trim>) {
        if let Some(live) = self.live.filter(|_| self.streams) {
            match trim {
                Some(trim) => live.push(&trim.push(text)),
                None => live.push(text),
            }
        }
    }

    /// Takes back what was shown of the chunk's reply, as far as it can be; says whether it can.
    fn restart(&mut self, is_part: bool) -> bool {
        let Some(live) = self.live else {
            return true;
        };
        self.streams &= !is_part;
        if !live.is_shown() {
            live.restart();
            return true;
        }
        let can_restart = self.asker.options.can_restart;
        let what = if can_restart {
            live.restart();
            "shown; it is shown anew"
        } else {
            "written, so it is not asked for again"
        };
        self.asker.messages.warning(&format!(
            "{}: the reply broke off after its beginning was {what}",
            self.place.name()
        ));
        can_restart
    }

    async fn remember(&self, key: Key, entry: Entry) {
        if let Some(cache) = &self.asker.recall.cache {
            cache.store(key, entry).await;
            self.tell_trouble();
        }
    }
}
