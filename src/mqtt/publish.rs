//! What we publish: checked here, because what a broker cannot take it answers by ending the connection.

use std::fmt;
use std::time::Duration;

use bytes::{BufMut as _, Bytes};
pub use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Packet, PubAckReason, PubRecReason, Publish, PublishProperties};

use super::connection::Connection;

/// The largest packet there is (MQTT 5, 2.1.4), where the broker announces no limit of its own: 256 MiB and no more.
pub(super) const LARGEST_PACKET_BYTES: u32 = 268_435_460;
/// The most levels of a topic: Mosquitto ends the connection over more.
const MAX_LEVELS: usize = 200;

/// Why something cannot be published. Nothing was sent, and the connection goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No name of a topic.
    #[error(
        "{0:?} is no topic to publish on: 1 to 65535 bytes of text in at most 200 levels, without + and # and control characters, are expected"
    )]
    Topic(String),
    /// A property that no packet can hold.
    #[error("the {0} is no text that MQTT can carry: at most 65535 bytes without control characters are expected")]
    Property(&'static str),
    /// The broker would end the connection over it.
    #[error("a packet of {bytes} bytes; the broker takes {most} at most")]
    TooLarge {
        /// The packet's size.
        bytes: usize,
        /// What the broker announced.
        most: u32,
    },
    /// QoS 2 is a conversation that has to be carried on: [`Connection::publish`] does not.
    #[error("QoS 2 is not for a publish whose answers nobody awaits; 0 and 1 are")]
    ExactlyOnce,
}

/// Something to publish.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// The topic's full name.
    pub topic: String,
    /// Any bytes.
    pub payload: Bytes,
    /// The quality of the way to the broker.
    pub qos: QoS,
    /// Whether the broker keeps it for those who subscribe later. An empty payload then clears what it keeps.
    pub retain: bool,
    /// What else MQTT 5 lets it say.
    pub properties: Properties,
}

/// Properties of a publish (MQTT 5, 3.3.2.3), those that are used here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Properties {
    /// Message Expiry Interval, in whole seconds, rounded up: how long the broker may keep it for a subscriber that is away.
    pub expiry: Option<Duration>,
    /// Where to answer.
    pub response_topic: Option<String>,
    /// What the answer is to say again.
    pub correlation: Option<Bytes>,
    /// A MIME type.
    pub content_type: Option<String>,
}

impl Properties {
    fn packed(&self) -> Option<PublishProperties> {
        if *self == Self::default() {
            return None;
        }
        let seconds = |expiry: Duration| {
            let whole = expiry.as_secs().saturating_add(u64::from(expiry.subsec_nanos() > 0));
            u32::try_from(whole).unwrap_or(u32::MAX)
        };
        Some(PublishProperties {
            message_expiry_interval: self.expiry.map(seconds),
            response_topic: self.response_topic.clone(),
            correlation_data: self.correlation.clone(),
            content_type: self.content_type.clone(),
            ..PublishProperties::default()
        })
    }

    fn check(&self) -> Result<(), PublishError> {
        if let Some(topic) = &self.response_topic {
            check_topic(topic)?;
        }
        let sound = |text: &str| text.len() <= usize::from(u16::MAX) && is_text(text);
        if self.content_type.as_deref().is_some_and(|text| !sound(text)) {
            return Err(PublishError::Property("content type"));
        }
        if self.correlation.as_ref().is_some_and(|data| data.len() > usize::from(u16::MAX)) {
            return Err(PublishError::Property("correlation data"));
        }
        Ok(())
    }
}

/// What a broker announced that a publisher must heed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Receive Maximum: how many publishes at QoS 1 and 2 may be under way to it.
    pub receive_maximum: u16,
    /// Maximum QoS.
    pub max_qos: u8,
    /// Whether it keeps retained messages.
    pub retain: bool,
}

impl Limits {
    /// As this CONNACK has them; what it leaves out is the protocol's most.
    #[must_use]
    pub fn of(connack: &ConnAck) -> Self {
        let properties = connack.properties.as_ref();
        Self {
            receive_maximum: properties.and_then(|properties| properties.receive_max).unwrap_or(u16::MAX).max(1),
            max_qos: properties.and_then(|properties| properties.max_qos).unwrap_or(2),
            retain: properties.and_then(|properties| properties.retain_available) != Some(0),
        }
    }
}

/// How a broker answered a publish: the reason code of its PUBACK or PUBREC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReasonCode(pub u8);

impl ReasonCode {
    /// Taken.
    pub const SUCCESS: Self = Self(0x00);
    /// Taken, and there was nobody to give it to.
    pub const NO_MATCHING_SUBSCRIBERS: Self = Self(0x10);
    /// The packet id is in use: the broker has this conversation already.
    pub const PACKET_ID_IN_USE: Self = Self(0x91);
    /// The user has no right to publish there.
    pub const NOT_AUTHORIZED: Self = Self(0x87);

    /// Whether the broker did not take it (MQTT 5, 2.4).
    #[must_use]
    pub fn is_refusal(self) -> bool {
        self.0 >= 0x80
    }

    fn words(self) -> &'static str {
        match self.0 {
            0x00 => "success",
            0x10 => "no matching subscribers",
            0x83 => "implementation specific error",
            0x87 => "not authorized",
            0x90 => "topic name invalid",
            0x91 => "packet identifier in use",
            0x97 => "quota exceeded",
            0x99 => "payload format invalid",
            _ => "unspecified error",
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:02x} ({})", self.0, self.words())
    }
}

macro_rules! reason_codes {
    ($($reason:ident),+) => {
        $(impl From<$reason> for ReasonCode {
            fn from(reason: $reason) -> Self {
                Self(match reason {
                    $reason::Success => 0x00,
                    $reason::NoMatchingSubscribers => 0x10,
                    $reason::UnspecifiedError => 0x80,
                    $reason::ImplementationSpecificError => 0x83,
                    $reason::NotAuthorized => 0x87,
                    $reason::TopicNameInvalid => 0x90,
                    $reason::PacketIdentifierInUse => 0x91,
                    $reason::QuotaExceeded => 0x97,
                    $reason::PayloadFormatInvalid => 0x99,
                })
            }
        })+
    };
}

reason_codes!(PubAckReason, PubRecReason);

impl Connection {
    /// Publishes at QoS 0 or 1, to go out with the next turn. At QoS 1 the PUBACK comes as a packet with the id returned, and
    /// its reason code says what became of it: taken, nobody subscribed, or refused (not authorized). At QoS 0 the id is 0,
    /// and no answer ever comes. How many may wait for their PUBACK at once is in the CONNACK (Receive Maximum), and the
    /// caller's to heed.
    ///
    /// # Errors
    /// [`PublishError`].
    pub fn publish(&mut self, topic: &str, qos: QoS, payload: impl Into<Bytes>) -> Result<u16, PublishError> {
        let packet_id = match qos {
            QoS::AtMostOnce => 0,
            QoS::AtLeastOnce => self.next_packet_id(),
            QoS::ExactlyOnce => return Err(PublishError::ExactlyOnce),
        };
        let message = Message {
            topic: topic.to_owned(),
            payload: payload.into(),
            qos,
            ..Message::default()
        };
        self.publish_as(&message, packet_id, false)?;
        Ok(packet_id)
    }

    /// Publishes under a packet id of the caller's, to go out with the next turn: 0 at QoS 0, and above it an id that is under
    /// way in no other conversation of this session (SUBSCRIBE's included). `again` marks it as sent before (DUP).
    ///
    /// At QoS 1 a PUBACK ends the conversation. At QoS 2 a PUBREC does where it refuses; else [`Connection::release`] is due,
    /// and a PUBCOMP ends it.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was sent.
    pub fn publish_as(&mut self, message: &Message, packet_id: u16, again: bool) -> Result<(), PublishError> {
        check_topic(&message.topic)?;
        message.properties.check()?;
        let mut publish = Publish::new(
            message.topic.as_str(),
            message.qos,
            message.payload.clone(),
            message.properties.packed(),
        );
        (publish.pkid, publish.retain, publish.dup) = (packet_id, message.retain, again);
        let (bytes, most) = (publish.size(), self.max_sent_bytes);
        // Before a byte is written: half a packet in the buffer would be the end of the connection.
        if bytes > most as usize || self.send(&Packet::Publish(publish)).is_err() {
            return Err(PublishError::TooLarge { bytes, most });
        }
        Ok(())
    }

    /// Puts a PUBREL into the outgoing buffer: the second half of a publish at QoS 2, after its PUBREC.
    pub fn release(&mut self, packet_id: u16) {
        // PUBREL with its fixed flags, remaining length 2: success needs no reason code (MQTT 5, 3.6.2.1).
        self.outgoing.put_slice(&[0x62, 2]);
        self.outgoing.put_u16(packet_id);
    }
}

/// What the broker, or the protocol, takes as the name of a topic.
fn check_topic(topic: &str) -> Result<(), PublishError> {
    let sound = !topic.is_empty()
        && topic.len() <= usize::from(u16::MAX)
        && !topic.contains(['+', '#'])
        && is_text(topic)
        && topic.split('/').count() <= MAX_LEVELS;
    if sound {
        Ok(())
    } else {
        Err(PublishError::Topic(topic.chars().take(100).collect()))
    }
}

/// Without what a broker may close the connection over (MQTT 5, 1.5.4): control characters and what Unicode calls no characters.
fn is_text(text: &str) -> bool {
    let no_character = |c: char| matches!(u32::from(c), 0xfdd0..=0xfdef) || u32::from(c) & 0xfffe == 0xfffe;
    !text.contains(|c: char| c.is_control() || no_character(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_the_connection_is_no_topic() {
        for good in ["a", "a/b", "/", "$SYS/x", "größe/ü", &vec!["x"; MAX_LEVELS].join("/")] {
            assert_eq!(check_topic(good), Ok(()), "{good}");
        }
        let long = "x".repeat(65_536);
        for bad in [
            "",
            "a/+",
            "#",
            "a\0",
            "a\u{7}b",
            "a\u{fffe}",
            "a\u{1ffff}",
            &long,
            &vec!["x"; MAX_LEVELS + 1].join("/"),
        ] {
            assert!(matches!(check_topic(bad), Err(PublishError::Topic(_))), "{bad:?}");
        }
    }

    #[test]
    fn an_expiry_is_rounded_up_to_seconds() {
        let packed = |expiry| {
            Properties {
                expiry: Some(expiry),
                ..Properties::default()
            }
            .packed()
        };
        let seconds = |expiry| packed(expiry).and_then(|properties| properties.message_expiry_interval);
        assert_eq!(seconds(Duration::from_millis(1)), Some(1), "0 would be gone at once");
        assert_eq!(seconds(Duration::from_secs(7)), Some(7));
        assert_eq!(seconds(Duration::MAX), Some(u32::MAX));
        assert_eq!(Properties::default().packed(), None);
    }

    #[test]
    fn a_reason_is_told_by_number_and_word() {
        assert_eq!(ReasonCode::from(PubRecReason::NotAuthorized).to_string(), "0x87 (not authorized)");
        assert!(ReasonCode::from(PubAckReason::QuotaExceeded).is_refusal());
        assert!(!ReasonCode::NO_MATCHING_SUBSCRIBERS.is_refusal());
    }
}
