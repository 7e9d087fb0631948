//! The framing, and what is known of schema ids.

use crate::{
    AvroRecord, CancelRequested, Codec, DecodeError, EncodeError, LevelCause, MAX_RECORD_BYTES, OpenCall, PaymentEvent,
    ProviderOperation, StockLevel, TOPICS, decode_json, encode_json, topics,
};

fn cancel() -> CancelRequested {
    CancelRequested {
        order_id: "o-1".into(),
        request_id: "r-1".into(),
        reason: "changed my mind".into(),
        requested_by: "shopper".into(),
        at: 1_700_000_000_000,
    }
}

fn framed(id: u32, datum: &[u8]) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], datum].concat()
}

fn datum<T: AvroRecord>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    value.encode_datum(&mut out);
    out
}

fn encoded<T: AvroRecord>(codec: &Codec, value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    codec.encode(T::TOPIC.topic, value, &mut out);
    out
}

#[test]
fn a_record_is_a_zero_byte_its_schema_id_and_its_datum() {
    let codec = Codec::with_ids(std::array::from_fn(|position| 0x0100 + position as u32));
    let mut out = b"before".to_vec();
    codec.encode(topics::ORDERS_CANCEL_REQUESTED, &cancel(), &mut out);
    let position = TOPICS.iter().position(|known| known.topic == topics::ORDERS_CANCEL_REQUESTED).unwrap();
    assert_eq!(out, [b"before".as_slice(), &framed(0x0100 + position as u32, &datum(&cancel()))].concat());
    assert_eq!(codec.decode::<CancelRequested>(&out[6..]), Ok(cancel()));
}

#[test]
fn what_is_not_framed_is_refused() {
    let codec = Codec::offline();
    for bytes in [b"".as_slice(), b"\0\0\0\0", b"{\"order_id\":1}"] {
        let error = codec.decode::<CancelRequested>(bytes).unwrap_err();
        assert_eq!(error, DecodeError::NotFramed { bytes: bytes.len(), first: bytes.first().copied() });
        assert!(!error.is_not_yet());
    }
}

#[test]
fn bytes_behind_a_record_are_refused() {
    let codec = Codec::offline();
    let mut bytes = encoded(&codec, &cancel());
    bytes.extend([0, 0]);
    let trailing = DecodeError::TrailingBytes { record: "CancelRequested", bytes: 2 };
    assert_eq!(codec.decode::<CancelRequested>(&bytes), Err(trailing.clone()));
    codec.learn(700, Some(&renamed_docs()));
    assert_eq!(codec.decode::<CancelRequested>(&framed(700, &bytes[5..])), Err(trailing));
}

#[test]
fn a_record_is_at_most_a_mebibyte_both_ways() {
    let codec = Codec::offline();
    let fits = |bytes: usize| CancelRequested { reason: "x".repeat(bytes), ..cancel() };
    let around = encoded(&codec, &fits(1_000_000)).len() - 1_000_000;
    let largest = fits(MAX_RECORD_BYTES - around);
    let mut out = vec![7];
    codec.try_encode(&largest, &mut out).unwrap();
    assert_eq!(codec.decode(&out[1..]), Ok(largest));

    let mut out = vec![7];
    let too_large = fits(MAX_RECORD_BYTES - around + 1);
    let bytes = MAX_RECORD_BYTES + 1;
    assert_eq!(codec.try_encode(&too_large, &mut out), Err(EncodeError::TooLarge { record: "CancelRequested", bytes }));
    assert_eq!(out, [7]);
    codec.encode(topics::ORDERS_CANCEL_REQUESTED, &too_large, &mut out);
    assert_eq!(codec.decode::<CancelRequested>(&out[1..]), Err(DecodeError::TooLarge { bytes }));
}

#[test]
fn an_unknown_id_is_wanted_until_it_is_learned() {
    let codec = Codec::offline();
    let bytes = framed(900, &datum(&cancel()));
    let error = codec.decode::<CancelRequested>(&bytes).unwrap_err();
    assert_eq!(error, DecodeError::UnknownSchema { id: 900 });
    assert!(error.is_not_yet());
    let _ = codec.decode::<CancelRequested>(&framed(901, &[]));
    assert_eq!(codec.clone().wanted(), [900, 901]);

    codec.learn(901, None);
    assert_eq!(codec.wanted(), [900]);
    assert_eq!(codec.decode::<CancelRequested>(&framed(901, &[])), Err(DecodeError::NoSuchSchema { id: 901 }));

    codec.learn(900, Some(&renamed_docs()));
    assert_eq!(codec.wanted(), Vec::<u32>::new());
    assert_eq!(codec.decode(&bytes), Ok(cancel()));
}

/// The schema of a cancel with another doc: other text, same bytes.
fn renamed_docs() -> String {
    CancelRequested::schema_json().replace("Who asks.", "Whoever asks.")
}

#[test]
fn no_more_than_a_bound_is_wanted() {
    let codec = Codec::offline();
    for id in 0..5_000 {
        let _ = codec.decode::<CancelRequested>(&framed(10_000 + id, &[]));
    }
    assert_eq!(codec.wanted().len(), 1_024);
}

#[test]
fn missing_ids_are_forgotten_before_they_fill_memory_and_schemas_are_not() {
    let codec = Codec::offline();
    codec.learn(900, Some(&renamed_docs()));
    for id in 10_000..30_000 {
        codec.learn(id, None);
    }
    let error = codec.decode::<CancelRequested>(&framed(10_000, &[])).unwrap_err();
    assert_eq!(error, DecodeError::UnknownSchema { id: 10_000 });
    assert_eq!(codec.decode(&framed(900, &datum(&cancel()))), Ok(cancel()));
}

#[test]
fn another_record_is_refused_whoever_wrote_it() {
    let codec = Codec::offline();
    let bytes = encoded(&codec, &cancel());
    let error = codec.decode::<StockLevel>(&bytes).unwrap_err();
    assert!(error.to_string().contains("it is the schema of CancelRequested"), "{error}");
    codec.learn(900, Some(&renamed_docs()));
    let error = codec.decode::<StockLevel>(&framed(900, &datum(&cancel()))).unwrap_err();
    assert!(error.to_string().contains("it is the schema of CancelRequested"), "{error}");
}

#[test]
fn a_schema_that_cannot_be_read_is_refused_with_the_reason() {
    let codec = Codec::offline();
    codec.learn(900, Some("{"));
    codec.learn(901, Some(r#""string""#));
    codec.learn(902, Some(r#"{"type":"record","name":"CancelRequested","fields":[]}"#));
    for (id, reason) in [(900, "not an Avro schema"), (901, "not the schema of a record"), (902, "order_id")] {
        let error = codec.decode::<CancelRequested>(&framed(id, &[])).unwrap_err();
        assert!(matches!(error, DecodeError::Unresolvable { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

fn level() -> StockLevel {
    StockLevel {
        sku: "a".into(),
        on_hand: 7,
        reserved: 2,
        opening: 9,
        received: 0,
        shipped: 2,
        adjusted: 0,
        version: 4,
        cause: LevelCause::Shipped,
        cause_id: "o-1".into(),
        at: 5,
    }
}

/// A newer writer: one more symbol before ours, one more field, and a long that is still an int.
#[test]
fn a_newer_version_is_resolved_to_ours() {
    let codec = Codec::offline();
    let newer = StockLevel::schema_json()
        .replace("\"UNKNOWN\", \"OPENING\"", "\"UNKNOWN\", \"MOVED\", \"OPENING\"")
        .replace(r#"{ "name": "on_hand", "type": "long""#, r#"{ "name": "on_hand", "type": "int""#)
        .replace(
            r#"    { "name": "version""#,
            r#"    { "name": "aisle", "type": ["null", "string"], "default": null }, { "name": "version""#,
        );
    codec.learn(900, Some(&newer));
    let ours = datum(&level());
    // sku (2), on_hand, reserved, opening, received, shipped, adjusted: then the aisle, version, cause.
    let bytes = |cause: u8| {
        let mut bytes = ours.clone();
        bytes[9] = cause;
        bytes.splice(8..8, [2, 2, b'Q']);
        framed(900, &bytes)
    };
    assert_eq!(codec.decode(&bytes(16)), Ok(level()));
    assert_eq!(codec.decode(&bytes(2)), Ok(StockLevel { cause: LevelCause::Unknown, ..level() }));
    assert!(matches!(codec.decode::<StockLevel>(&bytes(40)), Err(DecodeError::Malformed { .. })));
    for length in 5..bytes(16).len() {
        assert!(codec.decode::<StockLevel>(&bytes(16)[..length]).is_err());
    }
}

/// The hard places of resolution: a newer symbol in an optional enum, and in a record that is itself optional.
#[test]
fn symbols_and_fields_inside_unions_are_resolved_too() {
    let mut choices = crate::tests::Choices(Vec::new().into_iter());
    let event = PaymentEvent {
        call: Some(OpenCall {
            operation: ProviderOperation::Refund,
            idempotency_key: "k".into(),
            amount_minor: 3,
            ask: true,
            tries: 1,
            since: 4,
        }),
        decline_kind: Some(crate::DeclineKind::Soft),
        ..crate::datum::Datum::made(&mut choices)
    };
    let newer = PaymentEvent::schema_json()
        .replace(
            r#"["UNKNOWN", "AUTHORIZE", "CAPTURE", "VOID", "REFUND"]"#,
            r#"["UNKNOWN", "AUTHORIZE", "CAPTURE", "VOID", "TIP"]"#,
        )
        .replace(r#"["UNKNOWN", "HARD", "SOFT"]"#, r#"["UNKNOWN", "HARD", "MAYBE"]"#)
        .replace(r#"{ "name": "since","#, r#"{ "name": "urgent", "type": "boolean" }, { "name": "since","#);
    let codec = Codec::offline();
    codec.learn(900, Some(&newer));
    let mut bytes = datum(&event);
    let key = bytes.windows(2).position(|pair| pair == [2, b'k']).unwrap();
    // key (2), amount, ask, tries, then the new field.
    bytes.insert(key + 5, 1);
    let read: PaymentEvent = codec.decode(&framed(900, &bytes)).unwrap();
    let call = event.call.clone().map(|call| OpenCall { operation: ProviderOperation::Unknown, ..call });
    assert_eq!(read, PaymentEvent { call, decline_kind: Some(crate::DeclineKind::Unknown), ..event });
}

#[test]
fn json_goes_by_topic() {
    let codec = Codec::offline();
    let bytes = encode_json(&codec, topics::STOCK_LEVELS, &level().to_json()).unwrap();
    assert_eq!(bytes, encoded(&codec, &level()));
    let json = decode_json(&codec, topics::STOCK_LEVELS, &bytes).unwrap();
    assert_eq!(json["cause"], "SHIPPED");
    assert_eq!(json["on_hand"], 7);
    let unknown = "nowhere".to_owned();
    assert_eq!(decode_json(&codec, "nowhere", &bytes), Err(DecodeError::UnknownTopic { topic: unknown.clone() }));
    assert_eq!(encode_json(&codec, "nowhere", &json), Err(EncodeError::UnknownTopic { topic: unknown }));
}
