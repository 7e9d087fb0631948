//! `GET /v1/orders/{id}`: the order as tracking knows it, now or once it has come far enough.
//!
//! Serves tracking's JSON as it is. Never answers from memory.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::app::{Ingress, QuerySlot, json_text};
use crate::doors::{KnownOrder, Unavailable};
use crate::fields::Text;
use crate::problem::{Problem, ProblemType};
use crate::status::Status;
use crate::watch;

/// Ids longer than this are of no order.
const ORDER_ID: Text = Text::Word(128);

/// What a query may ask for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {
    /// Seconds to wait; more than the limit means the limit.
    wait: Option<u64>,
    /// Wait for this version at least.
    min_version: Option<u64>,
    /// Wait for this status, or for the end of the order.
    until: Option<String>,
}

pub(crate) async fn order(
    State(ingress): State<Arc<Ingress>>,
    _slot: QuerySlot,
    id: Result<Path<String>, PathRejection>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = order_id(id)?;
    let Ok(Query(parameters)) = parameters else {
        return Err(ProblemType::MalformedQuery
            .with("known parameters are wait (seconds), min_version (a number) and until (a status)"));
    };
    let until = match parameters.until.as_deref().map(|word| Status::parse(word).ok_or(())) {
        None => None,
        Some(Ok(status)) => Some(status),
        Some(Err(())) => {
            let words = Status::ALL.map(Status::as_str).join(", ");
            return Err(ProblemType::MalformedQuery.with(format!("until is one of {words}")));
        }
    };
    let seen = Seen::of(&headers);
    let wait = Duration::from_secs(parameters.wait.unwrap_or(0)).min(ingress.settings().wait_max);
    let reached = |order: &KnownOrder| match until {
        Some(until) => Status::parse(&order.status).is_some_and(|status| status.has_reached(until)),
        // Without a status to wait for, what the client has already is not worth an answer.
        None => parameters.min_version.is_some() || !seen.holds(order.version),
    };
    let found = if wait.is_zero() {
        watch::find_now(&ingress, &id).await?
    } else {
        watch::wait_until(&ingress, &id, wait, parameters.min_version.unwrap_or(1), reached).await?
    };
    let order = found.ok_or(ProblemType::UnknownOrder)?;
    let unchanged = seen.holds(order.version);
    let tag = etag(order.version);
    let mut response = if unchanged { StatusCode::NOT_MODIFIED.into_response() } else { json_text(order.json) };
    response.headers_mut().insert(ETAG, tag);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    Ok(response)
}

/// The id in the path; what cannot be an id is unknown.
pub(crate) fn order_id(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    match path {
        Ok(Path(id)) if ORDER_ID.admits(&id) => Ok(id),
        Ok(_) => Err(ProblemType::UnknownOrder.into()),
        Err(_) => Err(ProblemType::MalformedQuery.with("the path is not UTF-8")),
    }
}

/// The entity tag of a version.
pub(crate) fn etag(version: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"v{version}\"")).expect("digits, a letter and quotes are visible ASCII")
}

/// The versions a client says it has.
enum Seen {
    Any,
    These(Vec<u64>),
}

impl Seen {
    fn of(headers: &HeaderMap) -> Seen {
        let mut versions = Vec::new();
        for value in headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()) {
            for tag in value.split(',').map(str::trim) {
                if tag == "*" {
                    return Seen::Any;
                }
                let tag = tag.strip_prefix("W/").unwrap_or(tag);
                let version = tag.strip_prefix("\"v").and_then(|tag| tag.strip_suffix('"'));
                versions.extend(version.and_then(|version| version.parse::<u64>().ok()));
            }
        }
        Seen::These(versions)
    }

    fn holds(&self, version: u64) -> bool {
        match self {
            Seen::Any => true,
            Seen::These(versions) => versions.contains(&version),
        }
    }
}

impl From<Unavailable> for Problem {
    fn from(reason: Unavailable) -> Problem {
        tracing::warn!(%reason, "a query was answered 503");
        ProblemType::OwnerUnavailable.into()
    }
}
