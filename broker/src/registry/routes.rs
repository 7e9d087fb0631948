//! The registry's REST interface, with Confluent's paths, bodies and error codes.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::catalog::{Offered, Refused, Registered, Wanted};
use super::compatibility::Level;
use super::records::Fact;
use super::store::Registry;

const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Serves until the future is dropped.
pub(crate) async fn serve(listener: TcpListener, registry: Registry) -> std::io::Result<()> {
    axum::serve(listener, router(Arc::new(registry))).await
}

fn router(registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/", get(|| async { answer(StatusCode::OK, &json!({})) }))
        .route("/subjects", get(subjects))
        .route("/subjects/{subject}", post(look_up).delete(delete_subject))
        .route("/subjects/{subject}/versions", get(versions).post(register))
        .route("/subjects/{subject}/versions/{version}", get(version).delete(delete_version))
        .route("/subjects/{subject}/versions/{version}/schema", get(version_schema))
        .route("/schemas/types", get(|| async { answer(StatusCode::OK, &json!(["AVRO"])) }))
        .route("/schemas/ids/{id}", get(schema))
        .route("/schemas/ids/{id}/versions", get(schema_versions))
        .route("/compatibility/subjects/{subject}/versions/{version}", post(test_version))
        .route("/compatibility/subjects/{subject}/versions", post(test_subject))
        .route("/config", get(global_level).put(set_global_level))
        .route("/config/{subject}", get(subject_level).put(set_subject_level).delete(delete_subject_level))
        .route("/mode", get(mode))
        .route("/mode/{subject}", get(mode))
        .layer(middleware::from_fn_with_state(registry.clone(), after_settling))
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

type App = State<Arc<Registry>>;
type Answer = Result<Response, Refused>;

/// What may stand behind the question mark.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Options {
    deleted: bool,
    permanent: bool,
    verbose: bool,
    default_to_global: bool,
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, CONTENT_TYPE)];
    (status, headers, body.to_string()).into_response()
}

fn ok(body: &Value) -> Answer {
    Ok(answer(StatusCode::OK, body))
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

/// Reads a body of any content type; clients differ in what they call it.
fn offered(body: &Bytes) -> Result<Offered, Refused> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Body {
        schema: String,
        #[serde(default)]
        schema_type: Option<String>,
        #[serde(default)]
        references: Option<Vec<Value>>,
    }
    let body: Body =
        serde_json::from_slice(body).map_err(|error| Refused::InvalidSchema(format!("request body: {error}")))?;
    if let Some(other) = body.schema_type.filter(|kind| kind != "AVRO") {
        let why = format!("schema type {other} is not supported, only AVRO");
        return Err(Refused::InvalidSchema(why));
    }
    if body.references.is_some_and(|all| !all.is_empty()) {
        let why = "references to other subjects are not supported";
        return Err(Refused::InvalidSchema(why.to_owned()));
    }
    Offered::parse(&body.schema)
}

fn level(body: &Bytes) -> Result<Level, Refused> {
    #[derive(Deserialize)]
    struct Body {
        compatibility: String,
    }
    let body: Body = serde_json::from_slice(body).map_err(|error| Refused::InvalidLevel(error.to_string()))?;
    Level::parse(&body.compatibility).ok_or(Refused::InvalidLevel(body.compatibility))
}

fn whole(found: &Registered) -> Value {
    json!({
        "subject": found.subject,
        "version": found.version,
        "id": found.id,
        "schema": found.schema,
    })
}

async fn subjects(State(registry): App, Query(options): Query<Options>) -> Answer {
    ok(&json!(registry.catalog().subjects(options.deleted)))
}

async fn versions(State(registry): App, Path(subject): Path<String>, Query(options): Query<Options>) -> Answer {
    ok(&json!(registry.catalog().versions(&subject, options.deleted)?))
}

async fn register(State(registry): App, Path(subject): Path<String>, body: Bytes) -> Answer {
    let offered = offered(&body)?;
    let id = registry.change(|catalog| {
        let (id, fact) = catalog.register(&subject, &offered)?;
        Ok((id, fact.into_iter().collect()))
    })?;
    ok(&json!({"id": id}))
}

async fn look_up(State(registry): App, Path(subject): Path<String>, body: Bytes) -> Answer {
    // An unknown subject comes before a bad schema.
    registry.catalog().versions(&subject, false)?;
    let offered = offered(&body)?;
    ok(&whole(&registry.catalog().find(&subject, &offered)?))
}

async fn version(
    State(registry): App,
    Path((subject, version)): Path<(String, String)>,
    Query(options): Query<Options>,
) -> Answer {
    let wanted = Wanted::parse(&version)?;
    let found = registry.catalog().version(&subject, wanted, options.deleted)?;
    ok(&whole(&found))
}

async fn version_schema(State(registry): App, Path((subject, version)): Path<(String, String)>) -> Answer {
    let wanted = Wanted::parse(&version)?;
    let found = registry.catalog().version(&subject, wanted, false)?;
    let headers = [(header::CONTENT_TYPE, CONTENT_TYPE)];
    Ok((StatusCode::OK, headers, found.schema).into_response())
}

async fn schema(State(registry): App, Path(id): Path<i32>) -> Answer {
    ok(&json!({"schema": registry.catalog().schema(id)?}))
}

async fn schema_versions(State(registry): App, Path(id): Path<i32>) -> Answer {
    let catalog = registry.catalog();
    catalog.schema(id)?;
    let uses = catalog.uses(id).into_iter();
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
    let offered = offered(&body)?;
    let problems = registry.catalog().test(&subject, wanted, &offered)?;
    tested(&problems, &options)
}

async fn test_subject(
    State(registry): App,
    Path(subject): Path<String>,
    Query(options): Query<Options>,
    body: Bytes,
) -> Answer {
    let offered = offered(&body)?;
    let problems = registry.catalog().test(&subject, None, &offered)?;
    tested(&problems, &options)
}

async fn global_level(State(registry): App) -> Answer {
    ok(&json!({"compatibilityLevel": registry.catalog().global_level()}))
}

async fn set_level(registry: &Registry, subject: Option<String>, body: &Bytes) -> Answer {
    let level = level(body)?;
    registry.change(|_| {
        let fact = Fact::Level { subject, level: Some(level) };
        Ok(((), vec![fact]))
    })?;
    ok(&json!({"compatibility": level}))
}

async fn set_global_level(State(registry): App, body: Bytes) -> Answer {
    set_level(&registry, None, &body).await
}

async fn subject_level(State(registry): App, Path(subject): Path<String>, Query(options): Query<Options>) -> Answer {
    let catalog = registry.catalog();
    let level = if options.default_to_global { catalog.level(&subject) } else { catalog.subject_level(&subject)? };
    ok(&json!({"compatibilityLevel": level}))
}

async fn set_subject_level(State(registry): App, Path(subject): Path<String>, body: Bytes) -> Answer {
    set_level(&registry, Some(subject), &body).await
}

async fn delete_subject_level(State(registry): App, Path(subject): Path<String>) -> Answer {
    let level = registry.change(|catalog| {
        let level = catalog.subject_level(&subject)?;
        let fact = Fact::Level { subject: Some(subject), level: None };
        Ok((level, vec![fact]))
    })?;
    ok(&json!({"compatibilityLevel": level}))
}

async fn mode() -> Answer {
    ok(&json!({"mode": "READWRITE"}))
}
