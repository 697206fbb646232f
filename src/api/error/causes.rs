//! What each part of the service refuses, as a kind of problem.

use crate::courier::tap::TapError;
use crate::devices::desired::{BadConfig, DesiredError};
use crate::devices::groups::GroupError;
use crate::devices::label::BadLabel;
use crate::devices::patch::BadPatch;
use crate::devices::registry::RegistryError;
use crate::identity::users::UserError;
use crate::operations::bulk::{BadFile, ImportError};
use crate::operations::commands::{CancelError, SendError};
use crate::operations::credentials::CredentialError;
use crate::operations::devices::DeviceError;
use crate::operations::discovery::DecideError;
use crate::operations::messages;
use crate::protocol::id::BadGroupId;

use super::{Kind, Problem};

impl From<messages::PublishError> for Problem {
    fn from(error: messages::PublishError) -> Self {
        use messages::PublishError as E;
        let kind = match &error {
            E::Topic(..) | E::Retained(_) => Kind::Unprocessable,
            E::Outside(..) | E::Role(..) => Kind::Forbidden,
            E::Broker(failure) => return Self::broker(failure),
            E::Database(error) => return Self::database(error),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<DecideError> for Problem {
    fn from(error: DecideError) -> Self {
        let kind = match &error {
            DecideError::Unknown(_) => Kind::NotFound,
            DecideError::State { .. } | DecideError::HasCredentials(_) => Kind::Conflict,
            DecideError::Name(_) => Kind::Unprocessable,
            DecideError::User(error) => return Self::internal(error),
            DecideError::Database(error) => return Self::database(error),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<TapError> for Problem {
    fn from(error: TapError) -> Self {
        match &error {
            TapError::TooMany => Self::new(Kind::TooManyRequests, error.to_string()).retry_after(60),
            TapError::Refused(_) => Self::new(Kind::Broker, error.to_string()),
            TapError::Connection(_) | TapError::Silent(_) => Self::new(Kind::Unavailable, error.to_string()).retry_after(5),
        }
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let kind = match &error {
            RegistryError::Unknown(_) => Kind::NotFound,
            RegistryError::Exists(_) => Kind::Conflict,
            RegistryError::Revision { .. } => Kind::PreconditionFailed,
            RegistryError::Label(_) => Kind::Unprocessable,
            RegistryError::Database(error) => return Self::database(error),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<SendError> for Problem {
    fn from(error: SendError) -> Self {
        use SendError as E;
        let kind = match &error {
            E::ParametersTooLarge { .. } => Kind::TooLarge,
            E::Command | E::ParametersTooDeep | E::Qos(_) | E::Ttl(_) | E::IdempotencyKey => Kind::Unprocessable,
            E::Unknown(_) => Kind::NotFound,
            E::Deleted(_) | E::NoMembers(_) | E::Clash(_) => Kind::Conflict,
            E::Database(error) => return Self::database(error),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<GroupError> for Problem {
    fn from(error: GroupError) -> Self {
        let kind = match &error {
            GroupError::Unknown(_) => Kind::NotFound,
            GroupError::Exists(_) | GroupError::Dynamic(_) => Kind::Conflict,
            GroupError::Revision { .. } => Kind::PreconditionFailed,
            GroupError::NoDevice(_) | GroupError::TooMany(_) | GroupError::Label(_) => Kind::Unprocessable,
            GroupError::Database(error) => return Self::database(error),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<CancelError> for Problem {
    fn from(error: CancelError) -> Self {
        let kind = match &error {
            CancelError::Unknown(_) => Kind::NotFound,
            CancelError::TooLate { .. } => Kind::Conflict,
            CancelError::Database(error) => return Self::database(error),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<UserError> for Problem {
    fn from(error: UserError) -> Self {
        let kind = match &error {
            UserError::Exists(_) => Kind::Conflict,
            UserError::Unknown(_) => Kind::NotFound,
            UserError::Reserved(_) => Kind::Unprocessable,
            UserError::Stored(_) => return Self::internal(&error),
            UserError::Database(error) => return Self::database(error),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<CredentialError> for Problem {
    fn from(error: CredentialError) -> Self {
        match error {
            CredentialError::Device(error) => error.into(),
            CredentialError::User(error) => error.into(),
            CredentialError::Username(_) | CredentialError::Nothing => Self::new(Kind::Unprocessable, error.to_string()),
            CredentialError::Randomness(_) => Self::internal(&error),
            CredentialError::Database(error) => Self::database(&error),
        }
    }
}

impl From<DeviceError> for Problem {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Registry(error) => error.into(),
            DeviceError::Group(error) => error.into(),
            DeviceError::Credentials(error) => error.into(),
            DeviceError::Groups(_) => Self::new(Kind::Unprocessable, error.to_string()),
            DeviceError::Database(error) => Self::database(&error),
        }
    }
}

impl From<DesiredError> for Problem {
    fn from(error: DesiredError) -> Self {
        match error {
            DesiredError::Device(error) => error.into(),
            DesiredError::Version { .. } => Self::new(Kind::PreconditionFailed, error.to_string()),
            DesiredError::Database(error) => Self::database(&error),
        }
    }
}

impl From<ImportError> for Problem {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Gone(_) => Self::new(Kind::Timeout, error.to_string()),
            ImportError::Unsure(error) => Self {
                detail: "the database did not say whether it has taken the lines from here on, 1,000 at most".into(),
                ..Self::database(&error)
            },
            ImportError::Randomness(_) => Self::internal(&error),
            ImportError::User(error) => error.into(),
            ImportError::Database(error) => Self::database(&error),
        }
    }
}

macro_rules! unprocessable {
    ($($error:ty),+) => {
        $(impl From<$error> for Problem {
            fn from(error: $error) -> Self {
                Self::new(Kind::Unprocessable, error.to_string())
            }
        })+
    };
}

unprocessable!(BadFile, BadPatch, BadLabel, BadConfig, BadGroupId);
