//! The registry's side, played by a small server: what is asked of it and what follows from its answers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::registry::{RegistryError, apply, check, fetch_wanted};
use crate::{AvroRecord, CancelRequested, Codec, DecodeError, OrderPlaced, TOPICS};

/// What the played registry has. Ids are positions in `schemas`, from 1.
#[derive(Default)]
struct Has {
    schemas: Vec<(String, String)>,
    levels: BTreeMap<String, String>,
    refuses: Option<(String, String)>,
    breaks_on: Option<String>,
    writes: usize,
}

impl Has {
    fn answer(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        if self.breaks_on.as_deref().is_some_and(|broken| path.contains(broken)) {
            return (500, json!({ "error_code": 50001, "message": "the store is away" }));
        }
        let parts: Vec<&str> = path.split('?').next().unwrap().trim_start_matches('/').split('/').collect();
        let schema = body["schema"].as_str().unwrap_or_default();
        match (method, parts.as_slice()) {
            ("POST", ["subjects", subject]) => {
                if !self.schemas.iter().any(|(of, _)| of == subject) {
                    return (404, json!({ "error_code": 40401, "message": "no subject" }));
                }
                match self.schemas.iter().position(|(of, text)| of == subject && text == schema) {
                    Some(at) => (200, json!({ "subject": subject, "id": at + 1, "version": 1, "schema": schema })),
                    None => (404, json!({ "error_code": 40403, "message": "no schema" })),
                }
            }
            ("POST", ["subjects", subject, "versions"]) => {
                self.writes += 1;
                self.schemas.push(((*subject).to_owned(), schema.to_owned()));
                (200, json!({ "id": self.schemas.len() }))
            }
            ("POST", ["compatibility", "subjects", subject, "versions"]) => match &self.refuses {
                Some((of, why)) if of == subject => (200, json!({ "is_compatible": false, "messages": [why] })),
                _ => (200, json!({ "is_compatible": true })),
            },
            ("GET", ["config", subject]) => match self.levels.get(*subject) {
                Some(level) => (200, json!({ "compatibilityLevel": level })),
                None => (404, json!({ "error_code": 40408, "message": "no level" })),
            },
            ("PUT", ["config", subject]) => {
                self.writes += 1;
                self.levels.insert((*subject).to_owned(), body["compatibility"].as_str().unwrap().to_owned());
                (200, body.clone())
            }
            ("GET", ["schemas", "ids", id]) => match self.schemas.get(id.parse::<usize>().unwrap().wrapping_sub(1)) {
                Some((_, schema)) => (200, json!({ "schema": schema })),
                None => (404, json!({ "error_code": 40403, "message": "no schema" })),
            },
            _ => (404, json!({ "error_code": 404, "message": format!("{method} {path} is not played") })),
        }
    }
}

fn serve(stream: TcpStream, has: &Mutex<Has>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut words = first.split_whitespace();
    let (status, answer) = has.lock().unwrap().answer(words.next().unwrap(), words.next().unwrap(), &body);
    let answer = answer.to_string();
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
    reader.get_mut().write_all(format!("{head}{answer}").as_bytes())
}

fn registry(has: Has) -> (String, Arc<Mutex<Has>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let has = Arc::new(Mutex::new(has));
    let played = has.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = serve(stream.unwrap(), &played);
        }
    });
    (url, has)
}

fn all_registered() -> Has {
    let schemas = TOPICS.iter().map(|topic| (topic.subject(), topic.schema_json.to_owned())).collect();
    Has { schemas, ..Has::default() }
}

#[tokio::test]
async fn apply_registers_once_and_check_then_has_the_ids() {
    let (url, has) = registry(Has::default());
    let report = apply(&url).await.unwrap();
    assert_eq!((report.registered.len(), report.existing.len(), report.levels.len()), (13, 0, 13));
    assert_eq!(report.to_string(), "schemas   13 registered, 0 were there; compatibility set on 13");
    assert_eq!(has.lock().unwrap().levels["stock.commands-value"], "BACKWARD_TRANSITIVE");
    assert_eq!(has.lock().unwrap().levels["stock.events-value"], "FULL_TRANSITIVE");
    let writes = has.lock().unwrap().writes;

    let again = apply(&format!("{url}/")).await.unwrap();
    assert_eq!((again.registered.len(), again.existing.len(), again.levels.len()), (0, 13, 0));
    assert_eq!(has.lock().unwrap().writes, writes);

    let codec = check(&url).await.unwrap();
    let id = has.lock().unwrap().schemas.iter().position(|(of, _)| of == "orders.placed-value").unwrap() + 1;
    assert_eq!(codec.id_of::<OrderPlaced>() as usize, id);
    assert_eq!(has.lock().unwrap().writes, writes, "check never registers");
}

#[tokio::test]
async fn check_names_the_subject_and_what_to_run() {
    let (url, has) = registry(Has::default());
    let error = check(&url).await.unwrap_err();
    assert!(matches!(error, RegistryError::Missing { .. }), "{error}");
    assert!(error.to_string().contains("catalog.products-value") && error.to_string().contains("millrace apply"));

    *has.lock().unwrap() = all_registered();
    has.lock().unwrap().schemas.iter_mut().find(|(of, _)| of == "orders.events-value").unwrap().1.push(' ');
    let error = check(&url).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Differs { subject, .. } if subject == "orders.events-value"), "{error}");
    assert!(error.to_string().contains("millrace apply"), "{error}");
}

#[tokio::test]
async fn apply_refuses_an_incompatible_schema_before_anything_is_registered() {
    let schemas = vec![("stock.levels-value".to_owned(), r#""string""#.to_owned())];
    let refuses = Some(("stock.levels-value".to_owned(), "READER_FIELD_MISSING_DEFAULT_VALUE at /fields/4".to_owned()));
    let (url, has) = registry(Has { schemas, refuses, ..Has::default() });
    let error = apply(&url).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::Incompatible { subject, .. } if subject == "stock.levels-value"),
        "{error}"
    );
    assert!(error.to_string().contains("READER_FIELD_MISSING_DEFAULT_VALUE at /fields/4"), "{error}");
    assert_eq!(has.lock().unwrap().schemas.len(), 1);
}

fn wants(codec: &Codec, id: u32) -> DecodeError {
    codec.decode::<CancelRequested>(&[&[0], &id.to_be_bytes()[..]].concat()).unwrap_err()
}

#[tokio::test]
async fn wanted_schemas_are_fetched_or_known_not_to_exist() {
    let mut has = all_registered();
    has.schemas.push(("elsewhere".to_owned(), CancelRequested::schema_json().replace("Who asks.", "Whoever asks.")));
    let there = has.schemas.len() as u32;
    let (url, has) = registry(has);
    let codec = Codec::with_ids(std::array::from_fn(|position| 500 + position as u32));
    for id in [there, 77, 88, u32::MAX, 0] {
        assert_eq!(wants(&codec, id), DecodeError::UnknownSchema { id });
    }
    has.lock().unwrap().breaks_on = Some("ids/88".to_owned());
    let error = fetch_wanted(&codec, &url).await.unwrap_err();
    assert!(error.to_string().contains("schema 88") && error.to_string().contains("the store is away"), "{error}");
    assert_eq!(codec.wanted(), [88], "what failed stays wanted, what did not is learned");
    assert!(matches!(wants(&codec, there), DecodeError::Malformed { .. }), "its schema is known");
    for id in [77, u32::MAX, 0] {
        assert_eq!(wants(&codec, id), DecodeError::NoSuchSchema { id });
    }

    has.lock().unwrap().breaks_on = None;
    assert_eq!(fetch_wanted(&codec, &url).await.unwrap(), 1);
    assert_eq!(wants(&codec, 88), DecodeError::NoSuchSchema { id: 88 });
    assert_eq!(fetch_wanted(&codec, &url).await.unwrap(), 0);
}

#[tokio::test]
async fn a_registry_that_is_away_changes_nothing_and_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    let codec = Codec::offline();
    wants(&codec, 900);
    for error in [
        fetch_wanted(&codec, &url).await.unwrap_err(),
        check(&url).await.map(|_| ()).unwrap_err(),
        apply(&url).await.map(|_| ()).unwrap_err(),
    ] {
        assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(&url), "{error}");
    }
    assert_eq!(codec.wanted(), [900]);
}

/// A page that is not a registry's never turns records into dead letters.
#[tokio::test]
async fn a_404_that_is_not_a_registry_is_no_word_about_a_schema() {
    let (url, _has) = registry(Has::default());
    let codec = Codec::offline();
    wants(&codec, 900);
    let error = fetch_wanted(&codec, &format!("{url}/wrong")).await.unwrap_err();
    assert!(error.to_string().contains("is not played"), "{error}");
    assert_eq!(codec.wanted(), [900]);
}
