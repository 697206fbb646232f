//! Who stands behind a request, once a credential has been verified, and what they may do.

use std::fmt;
use std::str::FromStr;

use tokio_postgres::types::{FromSql, Type};
use uuid::Uuid;

use super::audit::Actor;

/// What somebody may do. Each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads, and works with devices: commands, groups, registration.
    Operator,
    /// Everything, identities included.
    Admin,
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// As it stands in the table, in a JWT and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Whether this role may do what `needed` may.
    #[must_use]
    pub fn allows(self, needed: Self) -> bool {
        self >= needed
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is admin, operator or viewer")]
pub struct BadRole;

impl FromStr for Role {
    type Err = BadRole;

    fn from_str(text: &str) -> Result<Self, BadRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(BadRole)
    }
}

impl<'a> FromSql<'a> for Role {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(<&str>::from_sql(ty, raw)?.parse()?)
    }

    fn accepts(ty: &Type) -> bool {
        <&str as FromSql>::accepts(ty)
    }
}

/// How somebody proved who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// By this token of `api_tokens`.
    Token(Uuid),
    /// By a JWT of the configured issuer.
    Jwt,
}

/// Somebody whose credential was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The token's name, or the JWT's subject.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// How they proved it.
    pub means: Means,
}

impl Principal {
    /// How the audit calls them. The prefix keeps a token called `root` apart from the account of that name.
    #[must_use]
    pub fn actor(&self, origin: &str) -> Actor {
        let kind = match self.means {
            Means::Token(_) => "token",
            Means::Jwt => "jwt",
        };
        Actor::new(format!("{kind}:{}", self.name), origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_allows_itself_and_what_is_below() {
        let allowed = Role::ALL.map(|role| Role::ALL.map(|needed| role.allows(needed)));
        assert_eq!(allowed, [[true, false, false], [true, true, false], [true, true, true]]);
    }

    #[test]
    fn roles_are_spelt_exactly() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        for text in ["", "Admin", "admin ", "root", "viewer\0"] {
            assert_eq!(text.parse::<Role>(), Err(BadRole), "{text:?}");
        }
    }

    #[test]
    fn the_audit_tells_a_token_from_an_account_of_its_name() {
        let root = Principal {
            name: "root".to_owned(),
            role: Role::Viewer,
            means: Means::Jwt,
        };
        assert_eq!(root.actor("192.0.2.7").name(), "jwt:root");
    }
}
