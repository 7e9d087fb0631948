//! Gets the JSON body of a request: right type, small enough, in time, within bounds, free of card numbers.
//!
//! Never knows what the body must say; `fields` and the routes do.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::Value;
use tokio::time::timeout;

use crate::app::Ingress;
use crate::fields::refuse_cards;
use crate::json::{self, JsonFault};
use crate::problem::{Problem, ProblemType};
use crate::settings::Settings;

/// A JSON body that must be there.
pub(crate) struct JsonBody(pub(crate) Value);

/// A JSON body that may be left out.
pub(crate) struct JsonBodyIfAny(pub(crate) Option<Value>);

impl FromRequest<Arc<Ingress>> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, ingress: &Arc<Ingress>) -> Result<JsonBody, Problem> {
        let settings = ingress.settings();
        require_json(request.headers())?;
        let bytes = bytes(request, settings).await?;
        parse(&bytes, settings).map(JsonBody)
    }
}

impl FromRequest<Arc<Ingress>> for JsonBodyIfAny {
    type Rejection = Problem;

    async fn from_request(request: Request, ingress: &Arc<Ingress>) -> Result<JsonBodyIfAny, Problem> {
        let settings = ingress.settings();
        let json = require_json(request.headers());
        let bytes = bytes(request, settings).await?;
        if bytes.is_empty() {
            return Ok(JsonBodyIfAny(None));
        }
        json?;
        parse(&bytes, settings).map(Some).map(JsonBodyIfAny)
    }
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let media = text(CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("application/json") {
        return Err(ProblemType::NotJson.with("send the header Content-Type: application/json"));
    }
    match text(CONTENT_ENCODING) {
        None => Ok(()),
        Some(coding) if coding.eq_ignore_ascii_case("identity") => Ok(()),
        Some(_) => Err(ProblemType::NotJson.with("send the body without Content-Encoding")),
    }
}

async fn bytes(request: Request, settings: &Settings) -> Result<Bytes, Problem> {
    let too_large = || ProblemType::BodyTooLarge.with(format!("the body may have at most {} bytes", settings.body_max));
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > settings.body_max as u64) {
        return Err(too_large());
    }
    match timeout(settings.body_timeout, Bytes::from_request(request, &())).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)))) => Err(too_large()),
        Ok(Err(_)) => Err(ProblemType::MalformedJson.with("the body ended before it was complete")),
        Err(_) => {
            let limit = settings.body_timeout;
            Err(ProblemType::SlowRequest.with(format!("the body must arrive within {limit:?}")))
        }
    }
}

fn parse(bytes: &[u8], settings: &Settings) -> Result<Value, Problem> {
    let value = json::read(bytes, settings.depth_max, settings.values_max()).map_err(|fault| match fault {
        JsonFault::Malformed { line, column } => {
            ProblemType::MalformedJson.with(format!("no JSON from line {line}, column {column} on"))
        }
        JsonFault::FieldTwice { line, column } => {
            ProblemType::MalformedJson.with(format!("a field stands twice before line {line}, column {column}"))
        }
        JsonFault::TooDeep => {
            ProblemType::TooDeep.with(format!("the body may nest {} levels deep; an order needs 3", settings.depth_max))
        }
        JsonFault::TooManyValues => too_many_lines(settings),
    })?;
    refuse_cards(&value)?;
    Ok(value)
}

/// More lines than one order may have.
pub(crate) fn too_many_lines(settings: &Settings) -> Problem {
    ProblemType::TooManyLines.with(format!("an order may have at most {} lines; split it", settings.lines_max))
}

impl Settings {
    /// Values in the largest body that can be right: three to a line, one to spare, and the rest of an order.
    fn values_max(&self) -> usize {
        self.lines_max.saturating_mul(4).saturating_add(64)
    }
}
