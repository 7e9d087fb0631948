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
    // And the other way round, version 1 cannot read version 3.
    let (onward, back) = ([&first, &second, &third], [&third, &second, &first]);
    for (level, versions, status) in [
        ("BACKWARD", onward, 200),
        ("BACKWARD_TRANSITIVE", onward, 409),
        ("FORWARD", back, 200),
        ("FORWARD_TRANSITIVE", back, 409),
        ("FULL", onward, 200),
        ("FULL_TRANSITIVE", onward, 409),
    ] {
        registry.put(&format!("/config/{level}"), level);
        let path = format!("/subjects/{level}/versions");
        assert_eq!(registry.post(&path, versions[0]).0, 200);
        assert_eq!(registry.post(&path, versions[1]).0, 200, "{level}");
        assert_eq!(registry.post(&path, versions[2]).0, status, "{level}");
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

#[test]
fn deletes_come_in_two_steps() {
    let broker = start();
    let registry = Client::new(broker.handle.registry_url());
    let code = |(status, body): (u16, Value)| (status, body["error_code"].as_u64().unwrap_or(0));
    registry.post("/subjects/a/versions", &v1());
    registry.post("/subjects/a/versions", &v2());
    assert_eq!(code(registry.delete("/subjects/a/versions/1?permanent=true")), (404, 40407));
    assert_eq!(registry.delete("/subjects/a/versions/1"), (200, json!(1)));
    assert_eq!(code(registry.delete("/subjects/a/versions/1")), (404, 40406));
    assert_eq!(registry.get("/subjects/a/versions"), (200, json!([2])));
    assert_eq!(registry.get("/subjects/a/versions?deletedOnly=true"), (200, json!([1])));
    assert_eq!(code(registry.post("/subjects/a", &v1())), (404, 40403));
    assert_eq!(registry.post("/subjects/a?deleted=true", &v1()).1["version"], 1);
    // What is deleted softly can still be read by its id.
    assert_eq!(registry.get("/schemas/ids/1").0, 200);
    // The same schema comes back as a new version with its old id.
    assert_eq!(registry.post("/subjects/a/versions", &v1()), (200, json!({"id": 1})));
    assert_eq!(registry.get("/subjects/a/versions"), (200, json!([2, 3])));
    assert_eq!(registry.delete("/subjects/a/versions/1?permanent=true"), (200, json!(1)));
    assert_eq!(registry.put("/config/a", "NONE").0, 200);
    assert_eq!(registry.delete("/subjects/a"), (200, json!([2, 3])));
    assert_eq!(code(registry.delete("/subjects/a")), (404, 40404));
    assert_eq!(code(registry.get("/config/a")), (404, 40408), "a subject's level goes with it");
    assert_eq!(registry.get("/subjects"), (200, json!([])));
    assert_eq!(registry.get("/subjects?deleted=true"), (200, json!(["a"])));
    assert_eq!(registry.delete("/subjects/a?permanent=true"), (200, json!([2, 3])));
    assert_eq!(code(registry.delete("/subjects/a?permanent=true")), (404, 40401));
}

#[test]
fn modes_say_what_may_be_done() {
    let dir = tempfile::tempdir().expect("a folder");
    let broker = start_in(dir.path());
    let registry = Client::new(broker.registry_url());
    let set = |registry: &Client, path: &str, mode: &str| registry.call(Method::PUT, path, Some(json!({"mode": mode})));
    let code = |(status, body): (u16, Value)| (status, body["error_code"].as_u64().unwrap_or(0));
    assert_eq!(registry.get("/mode"), (200, json!({"mode": "READWRITE"})));
    assert_eq!(code(set(&registry, "/mode", "SIDEWAYS")), (422, 42204));
    assert_eq!(code(registry.get("/mode/a")), (404, 40409));
    registry.post("/subjects/a/versions", &v1());
    assert_eq!(set(&registry, "/mode/a", "READONLY"), (200, json!({"mode": "READONLY"})));
    assert_eq!(code(registry.post("/subjects/a/versions", &v2())), (422, 42205));
    assert_eq!(code(registry.delete("/subjects/a")), (422, 42205));
    assert_eq!(registry.post("/subjects/b/versions", &v2()).0, 200, "others may still be written");
    assert_eq!(code(set(&registry, "/mode", "IMPORT")), (422, 42205), "there are schemas already");

    // A schema keeps the id and the version it has elsewhere.
    let import = |subject: &str, id: i32| {
        let body = json!({"schema": v1().to_string(), "id": id, "version": 7});
        registry.call(Method::POST, &format!("/subjects/{subject}/versions"), Some(body))
    };
    assert_eq!(code(import("c", 1000)), (422, 42205), "not in mode IMPORT");
    assert_eq!(set(&registry, "/mode/c", "IMPORT").0, 200);
    assert_eq!(import("c", 1000), (200, json!({"id": 1000})));
    assert_eq!(registry.get("/subjects/c/versions"), (200, json!([7])));
    assert_eq!(code(import("c", 2)), (422, 42205), "the id has another schema");
    assert_eq!(registry.post("/subjects/d/versions", &json!("string")), (200, json!({"id": 1001})));

    assert_eq!(set(&registry, "/mode", "READONLY_OVERRIDE").0, 200);
    assert_eq!(code(registry.post("/subjects/b/versions", &v1())), (422, 42205));
    block_on(broker.stop());
    let broker = start_in(dir.path());
    let registry = Client::new(broker.registry_url());
    assert_eq!(registry.get("/mode"), (200, json!({"mode": "READONLY_OVERRIDE"})));
    assert_eq!(registry.get("/mode/a"), (200, json!({"mode": "READONLY"})));
    assert_eq!(registry.delete("/mode"), (200, json!({"mode": "READONLY_OVERRIDE"})));
    assert_eq!(registry.delete("/mode/a").0, 200);
    assert_eq!(registry.post("/subjects/a/versions", &v2()).0, 200);
}

#[test]
fn schemas_refer_to_other_subjects() {
    let dir = tempfile::tempdir().expect("a folder");
    let broker = start_in(dir.path());
    let registry = Client::new(broker.registry_url());
    let code = |(status, body): (u16, Value)| (status, body["error_code"].as_u64().unwrap_or(0));
    let money =
        json!({"type": "record", "name": "Money", "namespace": "shop", "fields": [{"name": "minor", "type": "long"}]});
    let order = |kind: &str| {
        let fields = json!([{"name": "total", "type": kind}]);
        json!({"type": "record", "name": "Order", "namespace": "shop", "fields": fields}).to_string()
    };
    let body = |version: i32, kind: &str| {
        let reference = json!({"name": "shop.Money", "subject": "money", "version": version});
        json!({"schema": order(kind), "references": [reference]})
    };
    let register = |body: Value| registry.call(Method::POST, "/subjects/order/versions", Some(body));
    registry.post("/subjects/money/versions", &money);
    assert_eq!(code(register(body(9, "Money"))), (422, 42201), "there is no such version");
    assert_eq!(code(register(json!({"schema": order("Money")}))), (422, 42201), "nobody defines Money");
    assert_eq!(register(body(1, "Money")), (200, json!({"id": 2})));
    assert_eq!(register(body(1, "Money")), (200, json!({"id": 2})), "it is the same");
    assert_eq!(registry.get("/schemas/ids/2").1["references"][0]["subject"], "money");
    assert_eq!(registry.get("/subjects/order/versions/1").1["references"][0]["version"], 1);
    assert_eq!(registry.get("/subjects/money/versions/1/referencedby"), (200, json!([2])));
    // Compatibility looks into what is referred to.
    assert_eq!(code(register(json!({"schema": order("string")}))), (409, 409));
    assert_eq!(code(registry.delete("/subjects/money")), (422, 42206));
    assert_eq!(code(registry.delete("/subjects/money/versions/1")), (422, 42206));
    block_on(broker.stop());
    let broker = start_in(dir.path());
    let registry = Client::new(broker.registry_url());
    assert_eq!(registry.get("/schemas/ids/2").1["references"][0]["name"], "shop.Money");
    assert_eq!(registry.delete("/subjects/order").0, 200);
    assert_eq!(registry.delete("/subjects/money"), (200, json!([1])), "nobody refers to it any more");
}

#[test]
fn content_types_are_agreed_on() {
    let broker = start();
    let registry = Client::new(broker.handle.registry_url());
    let ask = |method: Method, path: &str, headers: &[(&str, &str)], body: &str| {
        let mut request = registry.http.request(method, format!("{}{path}", registry.url)).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        registry.runtime.block_on(async {
            let response = request.send().await.expect("an answer");
            let kind = response.headers()["content-type"].to_str().expect("text").to_owned();
            let status = response.status().as_u16();
            let body: Value = serde_json::from_str(&response.text().await.expect("a body")).expect("JSON");
            (status, kind, body["error_code"].as_u64().unwrap_or(0))
        })
    };
    let own = "application/vnd.schemaregistry.v1+json".to_owned();
    let json = "application/json".to_owned();
    assert_eq!(ask(Method::GET, "/subjects", &[], ""), (200, own.clone(), 0));
    assert_eq!(ask(Method::GET, "/subjects", &[("accept", "application/json")], ""), (200, json, 0));
    let several = "application/vnd.schemaregistry.v1+json, application/json; q=0.5";
    assert_eq!(ask(Method::GET, "/subjects", &[("accept", several)], ""), (200, own.clone(), 0));
    assert_eq!(ask(Method::GET, "/subjects", &[("accept", "text/html")], ""), (406, own.clone(), 406));
    let body = r#"{"schema":"\"string\""}"#;
    for kind in ["application/json", "application/vnd.schemaregistry+json", "application/json; charset=utf-8"] {
        let answer = ask(Method::POST, "/subjects/a/versions", &[("content-type", kind)], body);
        assert_eq!(answer, (200, own.clone(), 0), "{kind}");
    }
    let answer = ask(Method::POST, "/subjects/a/versions", &[("content-type", "text/xml")], body);
    assert_eq!(answer, (415, own.clone(), 415));
    assert_eq!(ask(Method::POST, "/subjects/a/versions", &[], "{nonsense"), (400, own.clone(), 400));
    assert_eq!(ask(Method::GET, "/no/such/path", &[], ""), (404, own.clone(), 404));
    assert_eq!(ask(Method::DELETE, "/subjects", &[], ""), (405, own.clone(), 405));
    assert_eq!(ask(Method::GET, "/schemas/ids/one", &[], ""), (404, own, 404));
}

#[test]
fn everything_is_listed() {
    let broker = start();
    let registry = Client::new(broker.handle.registry_url());
    registry.post("/subjects/shop-a/versions", &v1());
    registry.post("/subjects/shop-a/versions", &v2());
    registry.post("/subjects/other/versions", &v1());
    let subjects = |path: &str| {
        let (_, all) = registry.get(path);
        let all = all.as_array().expect("a list").iter();
        all.map(|one| format!("{}/{}", one["subject"].as_str().expect("a subject"), one["version"])).collect::<Vec<_>>()
    };
    assert_eq!(subjects("/schemas"), ["other/1", "shop-a/1", "shop-a/2"]);
    assert_eq!(subjects("/schemas?latestOnly=true"), ["other/1", "shop-a/2"]);
    assert_eq!(subjects("/schemas?subjectPrefix=shop-&offset=1&limit=1"), ["shop-a/2"]);
    assert_eq!(registry.get("/subjects?subjectPrefix=shop"), (200, json!(["shop-a"])));
    // As Python's client asks.
    let asked = "/subjects/shop-a/versions?deleted=false&deletedOnly=false&offset=0&limit=-1";
    assert_eq!(registry.get(asked), (200, json!([1, 2])));
    assert_eq!(registry.get("/schemas/ids/1/subjects"), (200, json!(["other", "shop-a"])));
    assert_eq!(registry.get("/schemas/types"), (200, json!(["AVRO"])));
    assert_eq!(registry.get("/schemas/ids/1?fetchMaxId=true").1["maxId"], 2);
    assert_eq!(registry.get("/contexts"), (200, json!([":.:"])));
}
