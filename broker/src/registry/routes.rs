//! The registry's REST interface, with Confluent's paths, bodies and error codes.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::catalog::{Catalog, Registered, Wanted, Which};
use super::compatibility::Level;
use super::mode::Mode;
use super::offered::Offered;
use super::records::{Fact, Reference};
use super::refused::Refused;
use super::store::Registry;

/// What is spoken, the preferred first.
const CONTENT_TYPES: [&str; 3] =
    ["application/vnd.schemaregistry.v1+json", "application/vnd.schemaregistry+json", "application/json"];
/// Largest body, bytes.
const MAX_BODY_BYTES: usize = 4 << 20;

/// All of it.
pub(crate) fn routes(registry: Registry) -> Router {
    let registry = Arc::new(registry);
    let not_found = || async { Refused::Http(404, "Not Found") };
    let not_allowed = || async { Refused::Http(405, "Method Not Allowed") };
    Router::new()
        .route("/", get(|| async { ok(&json!({})) }))
        .route("/contexts", get(|| async { ok(&json!([":.:"])) }))
        .route("/v1/metadata/id", get(metadata_id))
        .route("/v1/metadata/version", get(|| async { ok(&json!({"version": env!("CARGO_PKG_VERSION")})) }))
        .route("/subjects", get(subjects))
        .route("/subjects/{subject}", post(look_up).delete(delete_subject))
        .route("/subjects/{subject}/versions", get(versions).post(register))
        .route("/subjects/{subject}/versions/{version}", get(version).delete(delete_version))
        .route("/subjects/{subject}/versions/{version}/schema", get(version_schema))
        .route("/subjects/{subject}/versions/{version}/referencedby", get(referenced_by))
        .route("/schemas", get(all_schemas))
        .route("/schemas/types", get(|| async { ok(&json!(["AVRO"])) }))
        .route("/schemas/ids/{id}", get(schema))
        .route("/schemas/ids/{id}/schema", get(schema_text))
        .route("/schemas/ids/{id}/subjects", get(schema_subjects))
        .route("/schemas/ids/{id}/versions", get(schema_versions))
        .route("/compatibility/subjects/{subject}/versions/{version}", post(test_version))
        .route("/compatibility/subjects/{subject}/versions", post(test_subject))
        .route("/config", get(global_level).put(set_global_level).delete(delete_global_level))
        .route("/config/{subject}", get(subject_level).put(set_subject_level).delete(delete_subject_level))
        .route("/mode", get(global_mode).put(set_global_mode).delete(delete_global_mode))
        .route("/mode/{subject}", get(subject_mode).put(set_subject_mode).delete(delete_subject_mode))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(registry.clone(), after_settling))
        .layer(middleware::from_fn(negotiate))
        .with_state(registry)
}

/// No answer leaves before what it speaks of is as durable as was promised.
async fn after_settling(State(registry): App, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    match registry.settled().await {
        Ok(()) => response,
        Err(error) => Refused::Storage(error.to_string()).into_response(),
    }
}

/// Answers in the type the client asked for, and refuses what is not spoken here.
async fn negotiate(request: Request, next: Next) -> Response {
    let Some(kind) = accepted(request.headers()) else {
        return Refused::Http(406, "Not Acceptable").into_response();
    };
    let has_body = matches!(*request.method(), Method::POST | Method::PUT);
    let given = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let bare = |value: &str| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // A body without a type, or with the one of plain bytes, is read as JSON.
    let is_spoken = |kind: &str| CONTENT_TYPES.contains(&kind) || kind == "application/octet-stream";
    if has_body && given.is_some_and(|given| !is_spoken(&bare(given))) {
        return Refused::Http(415, "Unsupported Media Type").into_response();
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The preferred type among those a client accepts. Weights are not looked at.
fn accepted(headers: &HeaderMap) -> Option<&'static str> {
    let accept: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if accept.is_empty() {
        return Some(CONTENT_TYPES[0]);
    }
    let ranges = accept.iter().flat_map(|value| value.split(','));
    let ranges: Vec<String> =
        ranges.map(|range| range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()).collect();
    let any = |kind: &&&str| ranges.iter().any(|range| range == **kind || range == "*/*" || range == "application/*");
    CONTENT_TYPES.iter().find(any).copied()
}

type App = State<Arc<Registry>>;
type Answer = Result<Response, Refused>;

/// What may stand behind the question mark. What cannot be read is as if it were not there: clients send what they like.
#[derive(Debug, Deserialize)]
#[serde(from = "HashMap<String, String>")]
struct Options {
    deleted: bool,
    deleted_only: bool,
    permanent: bool,
    verbose: bool,
    default_to_global: bool,
    force: bool,
    fetch_max_id: bool,
    latest_only: bool,
    subject_prefix: String,
    offset: usize,
    limit: usize,
}

impl From<HashMap<String, String>> for Options {
    fn from(given: HashMap<String, String>) -> Self {
        let is_set = |name: &str| given.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let number = |name: &str| given.get(name).and_then(|value| value.parse().ok());
        Self {
            deleted: is_set("deleted"),
            deleted_only: is_set("deletedOnly"),
            permanent: is_set("permanent"),
            verbose: is_set("verbose"),
            default_to_global: is_set("defaultToGlobal"),
            force: is_set("force"),
            fetch_max_id: is_set("fetchMaxId"),
            latest_only: is_set("latestOnly"),
            subject_prefix: given.get("subjectPrefix").cloned().unwrap_or_default(),
            offset: number("offset").unwrap_or(0),
            // A negative limit is none.
            limit: number("limit").unwrap_or(usize::MAX),
        }
    }
}

impl Options {
    /// The wanted part of a list.
    fn page<T>(&self, all: Vec<T>) -> Vec<T> {
        all.into_iter().skip(self.offset).take(self.limit).collect()
    }

    fn which(&self) -> Which {
        match (self.deleted_only, self.deleted) {
            (true, _) => Which::Deleted,
            (false, true) => Which::All,
            (false, false) => Which::Live,
        }
    }
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, CONTENT_TYPES[0])];
    (status, headers, body.to_string()).into_response()
}

fn ok(body: &Value) -> Answer {
    Ok(answer(StatusCode::OK, body))
}

fn plain(text: &str) -> Answer {
    let headers = [(header::CONTENT_TYPE, CONTENT_TYPES[0])];
    Ok((StatusCode::OK, headers, text.to_owned()).into_response())
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let code = self.code();
        let status = if code >= 1000 { code / 100 } else { code };
        let status = u16::try_from(status).unwrap_or(500);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        answer(status, &json!({"error_code": code, "message": self.to_string()}))
    }
}

/// A body with a schema.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SchemaBody {
    #[serde(default)]
    schema: String,
    #[serde(default)]
    schema_type: Option<String>,
    #[serde(default)]
    references: Option<Vec<Reference>>,
    #[serde(default)]
    id: Option<i32>,
    #[serde(default)]
    version: Option<i32>,
}

fn read<T: for<'a> Deserialize<'a>>(body: &Bytes) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| Refused::Malformed(format!("request body: {error}")))
}

fn offered(catalog: &Catalog, body: SchemaBody) -> Result<Offered, Refused> {
    if let Some(other) = body.schema_type.filter(|kind| kind != "AVRO") {
        let why = format!("schema type {other} is not supported, only AVRO");
        return Err(Refused::InvalidSchema(why));
    }
    catalog.offer(&body.schema, body.references.unwrap_or_default())
}

fn level(body: &Bytes) -> Result<Level, Refused> {
    #[derive(Deserialize)]
    struct Body {
        compatibility: String,
    }
    let body: Body = read(body)?;
    Level::parse(&body.compatibility).ok_or(Refused::InvalidLevel)
}

fn mode(body: &Bytes) -> Result<Mode, Refused> {
    #[derive(Deserialize)]
    struct Body {
        mode: String,
    }
    let body: Body = read(body)?;
    Mode::parse(&body.mode).ok_or(Refused::InvalidMode)
}

/// Ids are numbers; anything else is no path of this interface.
fn number(id: &str) -> Result<i32, Refused> {
    id.parse().map_err(|_| Refused::Http(404, "Not Found"))
}

fn whole(found: &Registered) -> Value {
    let mut body = json!({
        "subject": found.subject,
        "version": found.version,
        "id": found.id,
        "schema": found.schema,
    });
    if !found.references.is_empty() {
        body["references"] = json!(found.references);
    }
    body
}

async fn metadata_id() -> Answer {
    let clusters = json!({"kafka-cluster": "millrace", "schema-registry-cluster": "schema-registry"});
    ok(&json!({"id": "", "scope": {"path": [], "clusters": clusters}}))
}

async fn subjects(State(registry): App, Query(options): Query<Options>) -> Answer {
    let all = registry.catalog().subjects(options.which(), &options.subject_prefix);
    ok(&json!(options.page(all)))
}

async fn versions(State(registry): App, Path(subject): Path<String>, Query(options): Query<Options>) -> Answer {
    let all = registry.catalog().versions(&subject, options.which())?;
    ok(&json!(options.page(all)))
}

async fn all_schemas(State(registry): App, Query(options): Query<Options>) -> Answer {
    let all = registry.catalog().all(options.which(), &options.subject_prefix, options.latest_only);
    ok(&Value::Array(options.page(all).iter().map(whole).collect()))
}

async fn register(State(registry): App, Path(subject): Path<String>, body: Bytes) -> Answer {
    let body: SchemaBody = read(&body)?;
    let given = (body.id.filter(|id| *id >= 0), body.version.filter(|version| *version >= 1));
    let id = registry.change(|catalog| {
        let offered = offered(catalog, body)?;
        let (id, fact) = catalog.register(&subject, &offered, given)?;
        Ok((id, fact.into_iter().collect()))
    })?;
    ok(&json!({"id": id}))
}

async fn look_up(
    State(registry): App,
    Path(subject): Path<String>,
    Query(options): Query<Options>,
    body: Bytes,
) -> Answer {
    let catalog = registry.catalog();
    // An unknown subject comes before a bad schema.
    catalog.versions(&subject, options.which())?;
    let offered = offered(&catalog, read(&body)?)?;
    ok(&whole(&catalog.find(&subject, &offered, options.which())?))
}

async fn version(
    State(registry): App,
    Path((subject, version)): Path<(String, String)>,
    Query(options): Query<Options>,
) -> Answer {
    let wanted = Wanted::parse(&version)?;
    let found = registry.catalog().version(&subject, wanted, options.which())?;
    ok(&whole(&found))
}

async fn version_schema(
    State(registry): App,
    Path((subject, version)): Path<(String, String)>,
    Query(options): Query<Options>,
) -> Answer {
    let wanted = Wanted::parse(&version)?;
    plain(&registry.catalog().version(&subject, wanted, options.which())?.schema)
}

async fn referenced_by(State(registry): App, Path((subject, version)): Path<(String, String)>) -> Answer {
    let wanted = Wanted::parse(&version)?;
    let catalog = registry.catalog();
    let found = catalog.version(&subject, wanted, Which::All)?;
    ok(&json!(catalog.referenced_by(&subject, found.version)))
}

async fn schema(State(registry): App, Path(id): Path<String>, Query(options): Query<Options>) -> Answer {
    let catalog = registry.catalog();
    let (text, references) = catalog.schema(number(&id)?)?;
    let mut body = json!({"schema": text});
    if !references.is_empty() {
        body["references"] = json!(references);
    }
    if options.fetch_max_id {
        body["maxId"] = json!(catalog.max_id());
    }
    ok(&body)
}

async fn schema_text(State(registry): App, Path(id): Path<String>) -> Answer {
    plain(registry.catalog().schema(number(&id)?)?.0)
}

async fn schema_subjects(State(registry): App, Path(id): Path<String>, Query(options): Query<Options>) -> Answer {
    let catalog = registry.catalog();
    let id = number(&id)?;
    catalog.schema(id)?;
    let mut subjects: Vec<String> = catalog.uses(id, options.which()).into_iter().map(|(subject, _)| subject).collect();
    subjects.dedup();
    ok(&json!(subjects))
}

async fn schema_versions(State(registry): App, Path(id): Path<String>, Query(options): Query<Options>) -> Answer {
    let catalog = registry.catalog();
    let id = number(&id)?;
    catalog.schema(id)?;
    let uses = catalog.uses(id, options.which()).into_iter();
    let uses = uses.map(|(subject, version)| json!({"subject": subject, "version": version}));
    ok(&Value::Array(uses.collect()))
}

async fn delete_subject(State(registry): App, Path(subject): Path<String>, Query(options): Query<Options>) -> Answer {
    let gone = registry.change(|catalog| catalog.delete(&subject, None, options.permanent))?;
    ok(&json!(gone))
}

async fn delete_version(
    State(registry): App,
    Path((subject, version)): Path<(String, String)>,
    Query(options): Query<Options>,
) -> Answer {
    let wanted = Some(Wanted::parse(&version)?);
    let gone = registry.change(|catalog| catalog.delete(&subject, wanted, options.permanent))?;
    ok(&json!(gone.first()))
}

fn tested(problems: &[String], options: &Options) -> Answer {
    let mut body = json!({"is_compatible": problems.is_empty()});
    if options.verbose {
        body["messages"] = json!(problems);
    }
    ok(&body)
}

async fn test_version(
    State(registry): App,
    Path((subject, version)): Path<(String, String)>,
    Query(options): Query<Options>,
    body: Bytes,
) -> Answer {
    let wanted = Some(Wanted::parse(&version)?);
    let catalog = registry.catalog();
    let offered = offered(&catalog, read(&body)?)?;
    tested(&catalog.test(&subject, wanted, &offered)?, &options)
}

async fn test_subject(
    State(registry): App,
    Path(subject): Path<String>,
    Query(options): Query<Options>,
    body: Bytes,
) -> Answer {
    let catalog = registry.catalog();
    let offered = offered(&catalog, read(&body)?)?;
    tested(&catalog.test(&subject, None, &offered)?, &options)
}

async fn global_level(State(registry): App) -> Answer {
    ok(&json!({"compatibilityLevel": registry.catalog().global_level()}))
}

fn set_level(registry: &Registry, subject: Option<String>, body: &Bytes) -> Answer {
    let level = level(body)?;
    registry.change(|_| {
        let fact = Fact::Level { subject, level: Some(level) };
        Ok(((), vec![fact]))
    })?;
    ok(&json!({"compatibility": level}))
}

async fn set_global_level(State(registry): App, body: Bytes) -> Answer {
    set_level(&registry, None, &body)
}

async fn delete_global_level(State(registry): App) -> Answer {
    let level = registry.change(|catalog| {
        let fact = Fact::Level { subject: None, level: None };
        Ok((catalog.global_level(), vec![fact]))
    })?;
    ok(&json!({"compatibilityLevel": level}))
}

async fn subject_level(State(registry): App, Path(subject): Path<String>, Query(options): Query<Options>) -> Answer {
    let catalog = registry.catalog();
    let level = if options.default_to_global { catalog.level(&subject) } else { catalog.subject_level(&subject)? };
    ok(&json!({"compatibilityLevel": level}))
}

async fn set_subject_level(State(registry): App, Path(subject): Path<String>, body: Bytes) -> Answer {
    set_level(&registry, Some(subject), &body)
}

async fn delete_subject_level(State(registry): App, Path(subject): Path<String>) -> Answer {
    let level = registry.change(|catalog| {
        let level = catalog.subject_level(&subject)?;
        let fact = Fact::Level { subject: Some(subject), level: None };
        Ok((level, vec![fact]))
    })?;
    ok(&json!({"compatibilityLevel": level}))
}

async fn global_mode(State(registry): App) -> Answer {
    ok(&json!({"mode": registry.catalog().global_mode()}))
}

fn set_mode(registry: &Registry, subject: Option<String>, body: &Bytes, force: bool) -> Answer {
    let mode = mode(body)?;
    registry.change(|catalog| {
        catalog.may_set_mode(subject.as_deref(), mode, force)?;
        let fact = Fact::Mode { subject, mode: Some(mode) };
        Ok(((), vec![fact]))
    })?;
    ok(&json!({"mode": mode}))
}

async fn set_global_mode(State(registry): App, Query(options): Query<Options>, body: Bytes) -> Answer {
    set_mode(&registry, None, &body, options.force)
}

async fn delete_global_mode(State(registry): App) -> Answer {
    let mode = registry.change(|catalog| {
        let fact = Fact::Mode { subject: None, mode: None };
        Ok((catalog.global_mode(), vec![fact]))
    })?;
    ok(&json!({"mode": mode}))
}

async fn subject_mode(State(registry): App, Path(subject): Path<String>, Query(options): Query<Options>) -> Answer {
    let catalog = registry.catalog();
    let mode = if options.default_to_global { catalog.mode(&subject) } else { catalog.subject_mode(&subject)? };
    ok(&json!({"mode": mode}))
}

async fn set_subject_mode(
    State(registry): App,
    Path(subject): Path<String>,
    Query(options): Query<Options>,
    body: Bytes,
) -> Answer {
    set_mode(&registry, Some(subject), &body, options.force)
}

async fn delete_subject_mode(State(registry): App, Path(subject): Path<String>) -> Answer {
    let mode = registry.change(|catalog| {
        let mode = catalog.subject_mode(&subject)?;
        let fact = Fact::Mode { subject: Some(subject), mode: None };
        Ok((mode, vec![fact]))
    })?;
    ok(&json!({"mode": mode}))
}
