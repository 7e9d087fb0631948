//! What every request carries and every answer gets: the request id, the trace, and who may ask at all.
//!
//! Until sign-in exists only this machine may ask: a name that is not loopback (DNS rebinding) and the page of
//! another origin (a form that posts here) are refused. Never looks into a body.

use std::net::IpAddr;

use axum::extract::{FromRequestParts, Request};
use axum::http::header::{HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use crate::card::looks_like_card;
use crate::problem::{Problem, ProblemType};

/// Names a request in answers, logs and record headers.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id taken from a client, characters.
const REQUEST_ID_MAX: usize = 128;
/// Longest `tracestate` passed on, characters; as much as W3C asks to be propagated.
const TRACESTATE_MAX: usize = 512;

/// Which request this is, for logs, answers and record headers.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) request_id: String,
    traceparent: Option<String>,
    tracestate: Option<String>,
}

impl Context {
    fn of(headers: &HeaderMap) -> Context {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let request_id = text(REQUEST_ID.as_str()).filter(|id| is_request_id(id));
        let traceparent = text("traceparent").filter(|parent| is_traceparent(parent));
        let tracestate = text("tracestate")
            .filter(|state| traceparent.is_some() && state.len() <= TRACESTATE_MAX && !state.is_empty());
        Context { request_id: request_id.unwrap_or_else(|| Uuid::new_v4().to_string()), traceparent, tracestate }
    }

    /// Headers of the record that a request leads to: CloudEvents attributes, the request and its trace. `id` is a
    /// function of what was asked, so that a repetition carries the same.
    pub(crate) fn record_headers(&self, record: &str, id: &str) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("ce_specversion", "1.0".to_owned()),
            ("ce_id", id.to_owned()),
            ("ce_source", "/ingress".to_owned()),
            ("ce_type", format!("millrace.{record}")),
            ("x-request-id", self.request_id.clone()),
        ];
        headers.extend(self.traceparent.clone().map(|value| ("traceparent", value)));
        headers.extend(self.tracestate.clone().map(|value| ("tracestate", value)));
        headers
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Context {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Context, Problem> {
        match parts.extensions.get::<Context>() {
            Some(context) => Ok(context.clone()),
            None => Ok(Context::of(&parts.headers)),
        }
    }
}

/// Around every request: gives it a [`Context`], refuses strangers, and names the request in the answer.
pub(crate) async fn around(mut request: Request, next: Next) -> Response {
    let context = Context::of(request.headers());
    request.extensions_mut().insert(context.clone());
    let response = match refuse_strangers(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let mut response = match response.extensions().get::<Problem>() {
        Some(problem) => {
            let named = problem.clone().at_request(&context.request_id).into_response();
            let (mut parts, _) = response.into_parts();
            parts.headers.remove(axum::http::header::CONTENT_LENGTH);
            Response::from_parts(parts, named.into_body())
        }
        None => response,
    };
    if let Ok(id) = HeaderValue::from_str(&context.request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn refuse_strangers(uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let named = headers.get(HOST).map(text).or_else(|| uri.authority().map(|authority| authority.to_string()));
    if named.is_some_and(|host| !is_this_machine(&host)) {
        return Err(ProblemType::ForeignOrigin
            .with("Host names another machine; use 127.0.0.1, [::1] or localhost until sign-in exists"));
    }
    let origin = headers.get(ORIGIN).map(text);
    if origin.is_some_and(|origin| !origin.split_once("://").is_some_and(|(_, host)| is_this_machine(host))) {
        return Err(ProblemType::ForeignOrigin.with("the page that asks is not from this machine"));
    }
    Ok(())
}

/// A `host` or `host:port` that can only be this machine.
fn is_this_machine(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(host, _)| host),
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_request_id(id: &str) -> bool {
    (1..=REQUEST_ID_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) && !looks_like_card(id)
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, neither id all zero (W3C Trace Context).
fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let some = |part: &str| part.bytes().any(|byte| byte != b'0');
    match text.split('-').collect::<Vec<_>>()[..] {
        ["00", trace, span, flags] => hex(trace, 32) && hex(span, 16) && hex(flags, 2) && some(trace) && some(span),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_this_machine() {
        for host in
            ["localhost", "localhost:8080", "LOCALHOST.", "shop.localhost", "127.0.0.1:1", "127.9.9.9", "[::1]:80"]
        {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.nip.io",
            "10.0.0.1:80",
            "[::2]",
            "[::1",
            "notlocalhost",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn a_trace_is_passed_on_only_when_it_is_one() {
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        for text in [
            "",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert!(!is_traceparent(text), "{text}");
        }
    }
}
