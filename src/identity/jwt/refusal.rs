//! Why a JWT is not taken: one reason each, for the log and for `iotflow token inspect`.

/// A part of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The first: how it is signed.
    Header,
    /// The second: the claims.
    Payload,
    /// The third.
    Signature,
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Payload => "payload",
            Self::Signature => "signature",
        }
    }
}

/// Why a JWT is not taken. No reason repeats what the token holds, so each can be logged as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Longer than any that is meant well.
    #[error("it is longer than {} bytes", super::verifier::MAX_TOKEN_BYTES)]
    TooLong,
    /// Not two dots.
    #[error("it is no signed token: three parts with dots between them are expected")]
    Parts,
    /// A part that is not base64url, padded, or with bits over.
    #[error("its {} is not base64url without padding", .0.as_str())]
    Encoding(Part),
    /// A part that is not one JSON object, or one that says something twice.
    #[error("its {} is no JSON object, or one that names something twice", .0.as_str())]
    Json(Part),
    /// `none`, in whatever spelling, or nothing after the second dot.
    #[error("it is not signed")]
    Unsigned,
    /// HS256 and the like. Who verifies such a token could sign it too; a public key taken for the secret lets anybody.
    #[error("it is signed with a shared secret, which is never taken")]
    Symmetric,
    /// None of the three, or one of them in another spelling.
    #[error("its algorithm is not EdDSA, ES256 or RS256")]
    Algorithm,
    /// An extension that must be understood, and is not.
    #[error("its header demands an extension (crit)")]
    Critical,
    /// Another kind of token of the same issuer.
    #[error("its header says that it is another kind of token (typ)")]
    Type,
    /// A header's member of the wrong kind.
    #[error("its header's {0} is no text")]
    Header(&'static str),
    /// No key of this name.
    #[error("the key it names is not in the file of keys")]
    UnknownKey,
    /// A key is bound to one algorithm.
    #[error("its key is for another algorithm than its header says")]
    KeyAlgorithm,
    /// Forged, changed on its way, or signed by somebody else.
    #[error("its signature is wrong")]
    Signature,
    /// A claim that must be there.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// A claim of the wrong kind.
    #[error("its {0} makes no sense")]
    Claim(&'static str),
    /// By more than the leeway.
    #[error("it has expired")]
    Expired,
    /// By more than the leeway.
    #[error("it is not valid yet (nbf)")]
    NotYetValid,
    /// By more than the leeway; somebody's clock is wrong.
    #[error("it was issued in the future (iat)")]
    IssuedInFuture,
    /// Not ours.
    #[error("it comes from another issuer (iss)")]
    Issuer,
    /// Meant for another service.
    #[error("it is meant for somebody else (aud)")]
    Audience,
    /// No role, or one that is not known.
    #[error("its claim of a role is not admin, operator or viewer")]
    Role,
}
