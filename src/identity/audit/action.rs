//! What can be done, and how it can end: closed sets with stable texts.

use std::fmt;
use std::str::FromStr;

macro_rules! actions {
    ($($variant:ident = $text:literal, $help:literal;)+) => {
        /// What can be done. The texts are stable: they stand in the table, and in people's filters.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Action {
            $(#[doc = $help] $variant,)+
        }

        impl Action {
            /// All of them, in the order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// As it stands in the table.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

actions! {
    TokenCreate = "token.create", "A token of the API was made.";
    TokenRevoke = "token.revoke", "A token of the API was revoked.";
    UserCreate = "user.create", "A user of the broker was made.";
    UserDelete = "user.delete", "A user of the broker was deleted.";
    UserPassword = "user.password", "A user of the broker was given another password.";
    UserDisable = "user.disable", "A user of the broker was locked out.";
    UserEnable = "user.enable", "A user of the broker was let in again.";
    DeviceCreate = "device.create", "A device was registered.";
    DeviceUpdate = "device.update", "What is known of a device was changed.";
    DeviceDelete = "device.delete", "A device was deleted.";
    DeviceDisable = "device.disable", "A device was shut out.";
    DeviceEnable = "device.enable", "A device was let in again.";
    DeviceImport = "device.import", "Devices were imported.";
    CredentialsRotate = "credentials.rotate", "A device was given other credentials.";
    CredentialsRevoke = "credentials.revoke", "A device's credentials were taken away.";
    ConfigSet = "config.set", "A device was told how it is to be set.";
    ConfigDelete = "config.delete", "A device is no longer told how it is to be set.";
    GroupCreate = "group.create", "A group was made.";
    GroupUpdate = "group.update", "A group was changed.";
    GroupDelete = "group.delete", "A group was deleted.";
    GroupAdd = "group.add", "A device was put into a group.";
    GroupRemove = "group.remove", "A device was taken out of a group.";
    CommandSend = "command.send", "A command was given to a device or a group.";
    CommandCancel = "command.cancel", "A command was taken back, as far as it had not been sent.";
    MessagePublish = "message.publish", "A message was published by hand.";
    TelemetryDelete = "telemetry.delete", "Telemetry and events of a device were deleted.";
    DeadLetterReplay = "deadletter.replay", "A dead letter was published again.";
    DeadLetterPurge = "deadletter.purge", "Dead letters were removed.";
    DiscoveryExpect = "discovery.expect", "A device was announced.";
    DiscoveryApprove = "discovery.approve", "A device that asked for credentials was approved.";
    DiscoveryReject = "discovery.reject", "A device that asked for credentials was rejected.";
    DiscoveryForget = "discovery.forget", "A device's request for credentials was forgotten.";
    DiscoveryRefuse = "discovery.refuse", "Somebody asked for an announced device's credentials with another key.";
    DiscoveryIssue = "discovery.issue", "A device was given its credentials.";
    CertificateIssue = "certificate.issue", "A certificate was issued.";
    CertificateRenew = "certificate.renew", "A certificate was renewed.";
    CertificateRevoke = "certificate.revoke", "A certificate was revoked.";
    BrokerApply = "broker.apply", "Users and access lists were applied to the broker.";
    BrokerRollback = "broker.rollback", "What the broker had before was put back.";
    BrokerStart = "broker.start", "The broker was started.";
    BrokerStop = "broker.stop", "The broker was stopped.";
    BackupCreate = "backup.create", "A backup was made.";
    BackupRestore = "backup.restore", "A backup was restored.";
}

/// Why a text is no action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an action of the audit is expected, such as token.create")]
pub struct BadAction;

impl FromStr for Action {
    type Err = BadAction;

    fn from_str(text: &str) -> Result<Self, BadAction> {
        Self::ALL.iter().copied().find(|action| action.as_str() == text).ok_or(BadAction)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an act ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was not allowed, or made no sense.
    Refused,
    /// It was tried and did not work.
    Failed,
}

impl Outcome {
    /// As it stands in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_a_text_of_its_own() {
        for action in Action::ALL {
            assert_eq!(action.as_str().parse(), Ok(*action));
            let (noun, verb) = action.as_str().split_once('.').expect("a noun and a verb");
            assert!([noun, verb].iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
        }
        assert_eq!("token.Create".parse::<Action>(), Err(BadAction));
    }
}
