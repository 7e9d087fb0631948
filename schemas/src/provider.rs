//! What is asked of a payment service provider and what it answers, as JSON between the processor that decides and the
//! connector that asks. Owns the form; never the rules of either side. No card data: a payment method is a token.

use serde::{Deserialize, Serialize};

use crate::{DeclineKind, ProviderOperation};

/// The authorization is no longer good: it expired at the provider, or it was voided there.
pub const AUTHORIZATION_EXPIRED: &str = "authorization_expired";

/// The same idempotency key was used before with another amount or operation; nothing was changed.
pub const IDEMPOTENCY_MISMATCH: &str = "idempotency_mismatch";

/// One request. The same idempotency key is the same request, however often it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderRequest {
    /// What to do.
    #[serde(with = "operation")]
    pub operation: ProviderOperation,
    /// Names the request for ever: `<order_id>/<operation>/<attempt>`.
    pub idempotency_key: String,
    /// The order the money is for; the provider's merchant reference.
    pub order_id: String,
    /// How much, in minor units; for a void, what is to be let go.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// The provider's token for the shopper's payment method.
    pub payment_method: String,
    /// The provider's name for the authorization; `None` until it has given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_reference: Option<String>,
    /// Only tell what became of this idempotency key; never act.
    #[serde(default)]
    pub ask: bool,
}

/// What the provider says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ProviderResponse {
    /// It is done.
    Approved {
        /// The provider's name for the authorization.
        reference: String,
        /// How much was authorized, captured, voided or refunded, in minor units.
        amount_minor: i64,
    },
    /// It is not done and, under this key, never will be.
    Declined {
        /// Whether another try can help.
        #[serde(with = "decline")]
        kind: DeclineKind,
        /// Why, in the provider's words: `lower_snake`.
        code: String,
    },
    /// It may or may not be done: ask.
    Unknown {
        /// What was seen, for people.
        detail: String,
    },
    /// The answer to an ask: this idempotency key never took effect.
    NotFound,
}

impl ProviderRequest {
    /// As JSON bytes.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and symbols always serialize")
    }

    /// From JSON bytes.
    ///
    /// # Errors
    /// Where the JSON is broken or a field is missing or unknown.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

impl ProviderResponse {
    /// As JSON bytes.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and symbols always serialize")
    }

    /// From JSON bytes; what is no response is [`ProviderResponse::Unknown`], because then nobody knows.
    #[must_use]
    pub fn from_json(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes)
            .unwrap_or_else(|error| Self::Unknown { detail: format!("the answer cannot be read: {error}") })
    }
}

/// [`ProviderOperation`] by its Avro symbol.
mod operation {
    use super::ProviderOperation;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(super) fn serialize<S: Serializer>(value: &ProviderOperation, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(value.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ProviderOperation, D::Error> {
        let symbol = String::deserialize(from)?;
        let found = ProviderOperation::ALL.iter().find(|known| known.as_str() == symbol);
        found.copied().ok_or_else(|| D::Error::custom(format!("no operation {symbol:?}")))
    }
}

/// [`DeclineKind`] by its Avro symbol.
mod decline {
    use super::DeclineKind;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(super) fn serialize<S: Serializer>(value: &DeclineKind, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(value.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DeclineKind, D::Error> {
        let symbol = String::deserialize(from)?;
        let found = DeclineKind::ALL.iter().find(|known| known.as_str() == symbol);
        found.copied().ok_or_else(|| D::Error::custom(format!("no kind of decline {symbol:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_wire() {
        let request = ProviderRequest {
            operation: ProviderOperation::Capture,
            idempotency_key: "o-1/capture/1".into(),
            order_id: "o-1".into(),
            amount_minor: 1999,
            currency: "EUR".into(),
            payment_method: "tok_visa".into(),
            provider_reference: Some("sim_1".into()),
            ask: true,
        };
        assert_eq!(ProviderRequest::from_json(&request.to_json()).unwrap(), request);
    }

    #[test]
    fn every_response_survives_the_wire_and_garbage_means_unknown() {
        for response in [
            ProviderResponse::Approved { reference: "sim_1".into(), amount_minor: 5 },
            ProviderResponse::Declined { kind: DeclineKind::Soft, code: "insufficient_funds".into() },
            ProviderResponse::Unknown { detail: "time-out".into() },
            ProviderResponse::NotFound,
        ] {
            assert_eq!(ProviderResponse::from_json(&response.to_json()), response);
        }
        assert!(matches!(ProviderResponse::from_json(b"<html>"), ProviderResponse::Unknown { .. }));
    }
}
