//! Every error the ingress answers with: RFC 9457 problem details with stable types.
//!
//! The table is [`ProblemType`]. A problem never repeats a value that the client sent, only the place it stood at.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// Where the types live; the slug follows.
const BASE: &str = "https://millrace.dev/problems/";

/// Most field faults told in one answer; the rest is counted in `detail`.
const ERRORS_MAX: usize = 50;

/// The media type of every problem.
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

macro_rules! problems {
    ($( $(#[doc = $meaning:literal])+ $name:ident = $slug:literal, $status:ident, $title:literal, $retry:expr; )+) => {
        /// What can go wrong, one row each: slug, status, title and after how many seconds to try again.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProblemType { $( $(#[doc = $meaning])+ $name, )+ }

        impl ProblemType {
            /// Every type.
            pub const ALL: &'static [ProblemType] = &[ $( ProblemType::$name, )+ ];

            /// Last part of the `type` URI; never changes.
            pub fn slug(self) -> &'static str { match self { $( ProblemType::$name => $slug, )+ } }

            /// HTTP status.
            pub fn status(self) -> StatusCode { match self { $( ProblemType::$name => StatusCode::$status, )+ } }

            /// One line for people; the same for every occurrence.
            pub fn title(self) -> &'static str { match self { $( ProblemType::$name => $title, )+ } }

            /// Seconds until it is worth trying the same request again; `None` when it never is.
            pub fn retry_after(self) -> Option<u32> { match self { $( ProblemType::$name => $retry, )+ } }

            /// What happened and what to do now.
            pub fn meaning(self) -> &'static str {
                match self { $( ProblemType::$name => concat!($($meaning),+).trim_ascii(), )+ }
            }
        }
    };
}

problems! {
    /// The request has no `Idempotency-Key`. Make one when the shopper presses the button, and keep it for retries.
    KeyMissing = "idempotency-key-missing", BAD_REQUEST, "An Idempotency-Key header is required", None;
    /// The `Idempotency-Key` is not 1 to 255 visible ASCII characters, bare or in double quotes, or stands twice.
    KeyMalformed = "idempotency-key-malformed", BAD_REQUEST, "The Idempotency-Key header cannot be read", None;
    /// The body is not JSON, or names the same field twice.
    MalformedJson = "malformed-json", BAD_REQUEST, "The body is not well-formed JSON", None;
    /// The path or the query cannot be read; `detail` says which parameter.
    MalformedQuery = "malformed-query", BAD_REQUEST, "The address of the request cannot be read", None;
    /// The request comes from a web page of another origin, or names a host that is not this machine.
    ForeignOrigin = "foreign-origin", FORBIDDEN, "Only this machine may ask until sign-in exists", None;
    /// No such address.
    UnknownRoute = "unknown-route", NOT_FOUND, "There is nothing at this address", None;
    /// No such order, or not yet: an order that was just placed becomes visible within moments.
    UnknownOrder = "unknown-order", NOT_FOUND, "This order is not known", Some(1);
    /// The address exists, the method does not; `Allow` lists those that do.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "This address does not take this method", None;
    /// The body took too long to arrive. Send it again.
    SlowRequest = "slow-request", REQUEST_TIMEOUT, "The body did not arrive in time", Some(1);
    /// A request with the same `Idempotency-Key` is being worked on. Wait for its answer, or send the same again.
    InFlight = "request-in-flight", CONFLICT, "A request with this key is being worked on", Some(1);
    /// The order has shipped or has ended; `order_status` says where it stands.
    NotCancellable = "not-cancellable", CONFLICT, "This order can no longer be cancelled", None;
    /// The body is larger than the limit.
    BodyTooLarge = "body-too-large", PAYLOAD_TOO_LARGE, "The body is too large", None;
    /// `Content-Type` is not `application/json`, or the body is compressed.
    NotJson = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "The body must be application/json", None;
    /// The key belongs to a request with another body. Use a new key for a new request.
    KeyReused = "idempotency-key-reused", UNPROCESSABLE_ENTITY, "This key was used with another body", None;
    /// Something in the body looks like a card number. Send a payment method token; nothing was kept.
    CardData = "card-data", UNPROCESSABLE_ENTITY, "The body holds what looks like a card number", None;
    /// The body nests deeper than anything here needs.
    TooDeep = "nested-too-deeply", UNPROCESSABLE_ENTITY, "The body is nested too deeply", None;
    /// The order has more lines, or the body more values, than one order may have. Split the order.
    TooManyLines = "too-many-lines", UNPROCESSABLE_ENTITY, "The order has too many lines", None;
    /// Fields are missing, unknown or out of range; `errors` names each.
    InvalidContent = "invalid-content", UNPROCESSABLE_ENTITY, "The body does not say what is needed", None;
    /// A fault of ours; the request id helps to find it in the log.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Something went wrong here", None;
    /// The broker did not acknowledge in time. The order may or may not be stored: send the same again, same key.
    NotAcknowledged = "not-acknowledged", SERVICE_UNAVAILABLE, "The record was not acknowledged in time", Some(1);
    /// The queue to the broker is full and nothing was sent. Send the same again, same key.
    QueueFull = "queue-full", SERVICE_UNAVAILABLE, "Too much is waiting for the broker", Some(2);
    /// Too many requests at once. Try again shortly.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "Too many requests at once", Some(1);
    /// The part that knows this order is moving or restoring. Try again shortly.
    OwnerUnavailable = "owner-unavailable", SERVICE_UNAVAILABLE, "The owner of the order cannot answer now", Some(1);
}

impl ProblemType {
    /// The whole `type` URI.
    pub fn uri(self) -> String {
        format!("{BASE}{}", self.slug())
    }

    pub(crate) fn with(self, detail: impl Into<String>) -> Problem {
        Problem { kind: self, detail: detail.into(), errors: Vec::new(), extension: None, instance: None }
    }
}

/// A field that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    /// JSON pointer (RFC 6901) into the body.
    pub(crate) pointer: String,
    /// What it must be.
    pub(crate) detail: String,
}

/// One occurrence of a problem; an answer by itself.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: ProblemType,
    detail: String,
    errors: Vec<FieldError>,
    extension: Option<(&'static str, String)>,
    instance: Option<String>,
}

impl Problem {
    /// Its type.
    pub fn kind(&self) -> ProblemType {
        self.kind
    }

    /// `errors` beyond the first fifty are only counted.
    pub(crate) fn errors(mut self, mut errors: Vec<FieldError>, further: usize) -> Problem {
        let further = further + errors.len().saturating_sub(ERRORS_MAX);
        errors.truncate(ERRORS_MAX);
        if further > 0 {
            self.detail = format!("{}; {further} further faults are not listed", self.detail);
        }
        self.errors = errors;
        self
    }

    pub(crate) fn extension(mut self, name: &'static str, value: impl Into<String>) -> Problem {
        self.extension = Some((name, value.into()));
        self
    }

    /// The same problem, saying at which request it occurred.
    pub(crate) fn at_request(mut self, request_id: &str) -> Problem {
        self.instance = Some(format!("urn:millrace:request:{request_id}"));
        self
    }

    fn body(&self) -> Value {
        let mut body = Map::new();
        body.insert("type".into(), self.kind.uri().into());
        body.insert("title".into(), self.kind.title().into());
        body.insert("status".into(), self.kind.status().as_u16().into());
        body.insert("detail".into(), self.detail.clone().into());
        if let Some(instance) = &self.instance {
            body.insert("instance".into(), instance.clone().into());
        }
        if let Some((name, value)) = &self.extension {
            body.insert((*name).into(), value.clone().into());
        }
        if !self.errors.is_empty() {
            let errors = self.errors.iter().map(|fault| json!({"pointer": fault.pointer, "detail": fault.detail}));
            body.insert("errors".into(), errors.collect());
        }
        Value::Object(body)
    }
}

impl From<ProblemType> for Problem {
    /// The problem with its meaning as detail.
    fn from(kind: ProblemType) -> Problem {
        kind.with(kind.meaning())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.kind.status(), self.body().to_string()).into_response();
        response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
        if let Some(seconds) = self.kind.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        // Whoever knows the request's id renders it once more with `instance`.
        response.extensions_mut().insert(self);
        response
    }
}
