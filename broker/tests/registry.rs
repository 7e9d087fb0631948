//! The schema registry, asked over HTTP.

mod clients;

use clients::*;
use reqwest::Method;
use serde_json::{Value, json};

struct Client {
    url: String,
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
}

impl Client {
    fn new(url: String) -> Self {
        Self {
            url,
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"),
            http: reqwest::Client::new(),
        }
    }

    fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.header("content-type", "application/vnd.schemaregistry.v1+json").body(body.to_string());
        }
        self.runtime.block_on(async {
            let response = request.send().await.expect("an answer");
            let status = response.status().as_u16();
            let kind = response.headers()["content-type"].clone();
            assert_eq!(kind, "application/vnd.schemaregistry.v1+json", "{path}");
            let text = response.text().await.expect("a body");
            (status, serde_json::from_str(&text).expect("JSON"))
        })
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, None)
    }

    fn post(&self, path: &str, schema: &Value) -> (u16, Value) {
        let body = json!({"schema": schema.to_string()});
        self.call(Method::POST, path, Some(body))
    }

    fn put(&self, path: &str, level: &str) -> (u16, Value) {
        self.call(Method::PUT, path, Some(json!({"compatibility": level})))
    }

    fn delete(&self, path: &str) -> (u16, Value) {
        self.call(Method::DELETE, path, None)
    }
}

fn record(fields: Value) -> Value {
    json!({"type": "record", "name": "Order", "fields": fields})
}

fn v1() -> Value {
    record(json!([{"name": "id", "type": "string"}]))
}

fn v2() -> Value {
    record(json!([
        {"name": "id", "type": "string"},
        {"name": "note", "type": "string", "default": ""},
    ]))
}

fn incompatible() -> Value {
    record(json!([
        {"name": "id", "type": "string"},
        {"name": "must", "type": "long"},
    ]))
}

#[test]
fn versions_ids_and_lookups() {
    let broker = start();
    let registry = Client::new(broker.handle.registry_url());
    assert_eq!(registry.get("/subjects"), (200, json!([])));
    assert_eq!(registry.post("/subjects/a/versions", &v1()), (200, json!({"id": 1})));
    assert_eq!(registry.post("/subjects/a/versions", &v2()), (200, json!({"id": 2})));
    // Again, and under another subject: the same id.
    assert_eq!(registry.post("/subjects/a/versions", &v1()), (200, json!({"id": 1})));
    assert_eq!(registry.post("/subjects/b/versions", &v2()), (200, json!({"id": 2})));
    assert_eq!(registry.get("/subjects"), (200, json!(["a", "b"])));
    assert_eq!(registry.get("/subjects/a/versions"), (200, json!([1, 2])));

    let (status, latest) = registry.get("/subjects/a/versions/latest");
    assert_eq!(status, 200);
    assert_eq!(latest["subject"], "a");
    assert_eq!(latest["version"], 2);
    assert_eq!(latest["id"], 2);
    assert_eq!(latest["schema"], v2().to_string());
    let (_, first) = registry.get("/subjects/a/versions/1");
    assert_eq!(first["id"], 1);
    assert_eq!(registry.get("/schemas/ids/1"), (200, json!({"schema": v1().to_string()})));
    assert_eq!(
        registry.get("/schemas/ids/2/versions"),
        (200, json!([{"subject": "a", "version": 2}, {"subject": "b", "version": 1}]))
    );
    let (status, found) = registry.post("/subjects/a", &v1());
    assert_eq!((status, &found["version"], &found["id"]), (200, &json!(1), &json!(1)));
}

#[test]
fn errors_have_confluents_codes() {
    let broker = start();
    let registry = Client::new(broker.handle.registry_url());
    registry.post("/subjects/a/versions", &v1());
    let code = |(status, body): (u16, Value)| {
        assert!(body["message"].is_string(), "{body}");
        (status, body["error_code"].as_u64().expect("a code"))
    };
    assert_eq!(code(registry.get("/subjects/none/versions")), (404, 40401));
    assert_eq!(code(registry.post("/subjects/none", &v1())), (404, 40401));
    assert_eq!(code(registry.post("/subjects/a", &v2())), (404, 40403));
    assert_eq!(code(registry.get("/subjects/a/versions/9")), (404, 40402));
    assert_eq!(code(registry.get("/subjects/a/versions/zero")), (422, 42202));
    assert_eq!(code(registry.get("/schemas/ids/99")), (404, 40403));
    let nonsense = json!({"type": "nonsense"});
    assert_eq!(code(registry.post("/subjects/a/versions", &nonsense)), (422, 42201));
    assert_eq!(code(registry.put("/config", "SIDEWAYS")), (422, 42203));
    assert_eq!(code(registry.post("/subjects/a/versions", &incompatible())), (409, 409));
    assert_eq!(code(registry.get("/config/a")), (404, 40408));
}

#[test]
fn levels_decide_what_may_follow() {
    let broker = start();
    let registry = Client::new(broker.handle.registry_url());
    assert_eq!(registry.get("/config"), (200, json!({"compatibilityLevel": "BACKWARD"})));
    registry.post("/subjects/a/versions", &v1());
    let test = "/compatibility/subjects/a/versions/latest";
    assert_eq!(registry.post(test, &v2()), (200, json!({"is_compatible": true})));
    assert_eq!(registry.post(test, &incompatible()), (200, json!({"is_compatible": false})));
    for level in ["NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"]
    {
        assert_eq!(registry.put("/config/a", level), (200, json!({"compatibility": level})));
        assert_eq!(registry.get("/config/a"), (200, json!({"compatibilityLevel": level})));
        let allowed = matches!(level, "NONE" | "FORWARD" | "FORWARD_TRANSITIVE");
        assert_eq!(registry.post(test, &incompatible()), (200, json!({"is_compatible": allowed})), "{level}");
    }
    assert_eq!(registry.put("/config", "FULL"), (200, json!({"compatibility": "FULL"})));
    assert_eq!(registry.get("/config"), (200, json!({"compatibilityLevel": "FULL"})));
    assert_eq!(registry.get("/mode"), (200, json!({"mode": "READWRITE"})));
}

#[test]
fn transitive_levels_reach_back_to_the_first_version() {
    let broker = start();
    let registry = Client::new(broker.handle.registry_url());
    // Backward step by step, but version 3 cannot read version 1.
    let first = record(json!([{"name": "a", "type": "int"}]));
    let second = record(json!([
        {"name": "a", "type": "int"},
        {"name": "b", "type": "int", "default": 0},
    ]));
    let third = record(json!([
        {"name": "a", "type": "int"},
        {"name": "b", "type": "int"},
    ]));
    for (subject, level, status) in [("x", "BACKWARD", 200), ("y", "BACKWARD_TRANSITIVE", 409)] {
        registry.put(&format!("/config/{subject}"), level);
        let path = format!("/subjects/{subject}/versions");
        assert_eq!(registry.post(&path, &first).0, 200);
        assert_eq!(registry.post(&path, &second).0, 200);
        assert_eq!(registry.post(&path, &third).0, status, "{level}");
    }
}

#[test]
fn a_deleted_subject_can_be_registered_again() {
    let broker = start();
    let registry = Client::new(broker.handle.registry_url());
    registry.post("/subjects/a/versions", &v1());
    registry.post("/subjects/a/versions", &v2());
    assert_eq!(registry.delete("/subjects/a?permanent=true").1["error_code"], 40405);
    assert_eq!(registry.delete("/subjects/a"), (200, json!([1, 2])));
    assert_eq!(registry.get("/subjects/a/versions").1["error_code"], 40401);
    assert_eq!(registry.get("/subjects"), (200, json!([])));
    assert_eq!(registry.get("/subjects?deleted=true"), (200, json!(["a"])));
    // Records written with the id can still be read.
    assert_eq!(registry.get("/schemas/ids/2?deleted=true").0, 200);
    assert_eq!(registry.post("/subjects/a/versions", &v2()), (200, json!({"id": 2})));
    assert_eq!(registry.get("/subjects/a/versions"), (200, json!([3])));
}

#[test]
fn everything_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let broker = start_in(dir.path());
    let registry = Client::new(broker.registry_url());
    registry.post("/subjects/a/versions", &v1());
    registry.post("/subjects/a/versions", &v2());
    registry.post("/subjects/gone/versions", &v1());
    registry.delete("/subjects/gone");
    registry.put("/config", "FULL");
    registry.put("/config/a", "NONE");
    block_on(broker.stop());

    let broker = start_in(dir.path());
    let registry = Client::new(broker.registry_url());
    assert_eq!(registry.get("/subjects"), (200, json!(["a"])));
    assert_eq!(registry.get("/subjects/a/versions"), (200, json!([1, 2])));
    assert_eq!(registry.get("/schemas/ids/1").1["schema"], v1().to_string());
    assert_eq!(registry.get("/config").1["compatibilityLevel"], "FULL");
    assert_eq!(registry.get("/config/a").1["compatibilityLevel"], "NONE");
    assert_eq!(registry.post("/subjects/a/versions", &incompatible()), (200, json!({"id": 3})));
}

#[test]
fn the_converter_of_the_pipeline_encodes_and_decodes() {
    use apache_avro::types::Value as Avro;
    use schema_registry_converter::async_impl::easy_avro::{EasyAvroDecoder, EasyAvroEncoder};
    use schema_registry_converter::async_impl::schema_registry::{SrSettings, post_schema};
    use schema_registry_converter::schema_registry_common::{SchemaType, SubjectNameStrategy, SuppliedSchema};

    let broker = start();
    let settings = SrSettings::new(broker.handle.registry_url());
    block_on(async {
        let schema = SuppliedSchema::new(None, SchemaType::Avro, v1().to_string());
        let posted = post_schema(&settings, "orders-value".to_owned(), schema).await;
        assert_eq!(posted.expect("registered").id, 1);
        let encoder = EasyAvroEncoder::new(settings.clone());
        let strategy = SubjectNameStrategy::TopicNameStrategy("orders".to_owned(), false);
        let fields = vec![("id", Avro::String("o-1".to_owned()))];
        let bytes = encoder.encode(fields, strategy).await.expect("encoded");
        assert_eq!(bytes[..5], [0, 0, 0, 0, 1]);
        let decoder = EasyAvroDecoder::new(settings);
        let decoded = decoder.decode(Some(&bytes)).await.expect("decoded");
        let expected = vec![("id".to_owned(), Avro::String("o-1".to_owned()))];
        assert_eq!(decoded.value, Avro::Record(expected));
    });
}
