//! Users, their tokens and their vaults.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{CatalogResult, micros, unsigned};
use crate::admin::Role;
use crate::api::{ApiError, Code};

/// A user as far as a session needs one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Row.
    pub id: i64,
    /// Name.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// Row of the user's vault.
    pub vault: i64,
    /// The vault's keys, wrapped by the master key.
    pub wrapped_keys: Vec<u8>,
}

/// A token as kept: only its hash.
#[derive(Debug, Clone)]
pub struct TokenRow {
    /// SHA-256 of the secret.
    pub hash: Vec<u8>,
    /// Whose it is.
    pub user: User,
}

/// Makes a user with an empty vault.
///
/// # Errors
/// [`Code::Exists`].
pub fn create(c: &Connection, name: &str, role: Role, wrapped_keys: &[u8], now: Timestamp) -> CatalogResult<User> {
    let taken = c.prepare_cached("SELECT 1 FROM user WHERE name = ?1")?.exists([name])?;
    if taken {
        return Err(ApiError::new(Code::Exists, format!("a user called {name} exists already")).into());
    }
    let text = match role {
        Role::Admin => "admin",
        Role::User => "user",
    };
    let now = micros(now);
    let id = c
        .prepare_cached("INSERT INTO user(name, role, created_at) VALUES (?1, ?2, ?3)")?
        .insert(params![name, text, now])?;
    let vault = c
        .prepare_cached("INSERT INTO vault(owner, wrapped_keys, created_at) VALUES (?1, ?2, ?3)")?
        .insert(params![id, wrapped_keys, now])?;
    c.prepare_cached("INSERT INTO entry(vault_id, name, created_at) VALUES (?1, '', ?2)")?.execute([vault, now])?;
    Ok(User { id, name: name.to_owned(), role, vault, wrapped_keys: wrapped_keys.to_vec() })
}

/// Keeps a token's hash.
///
/// # Errors
/// [`super::CatalogError`].
pub fn add_token(c: &Connection, user: i64, id: &str, hash: &[u8], name: &str, now: Timestamp) -> CatalogResult<()> {
    c.prepare_cached("INSERT INTO token(id, user_id, hash, name, created_at) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![id, user, hash, name, micros(now)])?;
    Ok(())
}

/// Finds a token that is not revoked.
///
/// # Errors
/// [`super::CatalogError`].
pub fn token(c: &Connection, id: &str) -> CatalogResult<Option<TokenRow>> {
    let row = c
        .prepare_cached(
            "SELECT t.hash, u.id, u.name, u.role, v.id, v.wrapped_keys FROM token t
             JOIN user u ON u.id = t.user_id JOIN vault v ON v.owner = u.id
             WHERE t.id = ?1 AND t.revoked_at IS NULL",
        )?
        .query_row([id], |row| {
            let role: String = row.get(3)?;
            let role = if role == "admin" { Role::Admin } else { Role::User };
            let user = User { id: row.get(1)?, name: row.get(2)?, role, vault: row.get(4)?, wrapped_keys: row.get(5)? };
            Ok(TokenRow { hash: row.get(0)?, user })
        })
        .optional()?;
    Ok(row)
}

/// Revokes a token.
///
/// # Errors
/// [`super::CatalogError`].
pub fn revoke(c: &Connection, id: &str, now: Timestamp) -> CatalogResult<()> {
    c.prepare_cached("UPDATE token SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL")?
        .execute(params![id, micros(now)])?;
    Ok(())
}

/// Revokes a user's tokens with a name.
///
/// # Errors
/// [`super::CatalogError`].
pub fn revoke_named(c: &Connection, user: i64, name: &str, now: Timestamp) -> CatalogResult<()> {
    c.prepare_cached("UPDATE token SET revoked_at = ?3 WHERE user_id = ?1 AND name = ?2 AND revoked_at IS NULL")?
        .execute(params![user, name, micros(now)])?;
    Ok(())
}

/// The row of the admin who came first.
///
/// # Errors
/// [`super::CatalogError`].
pub fn first_admin(c: &Connection) -> CatalogResult<Option<i64>> {
    let mut question = c.prepare_cached("SELECT id FROM user WHERE role = 'admin' ORDER BY id LIMIT 1")?;
    Ok(question.query_row([], |row| row.get(0)).optional()?)
}

/// How many users there are.
///
/// # Errors
/// [`super::CatalogError`].
pub fn count(c: &Connection) -> CatalogResult<u64> {
    Ok(unsigned(c.prepare_cached("SELECT count(*) FROM user")?.query_row([], |row| row.get(0))?))
}
