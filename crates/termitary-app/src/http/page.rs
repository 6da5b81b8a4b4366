//! Pages of a list: an opaque cursor instead of an offset, so that nothing is
//! skipped or repeated while the list changes.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::ApiError;
use crate::schema::Rows;

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 100;

/// One page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page<T> {
    /// In the requested order.
    pub(crate) items: Vec<T>,
    /// Pass it as `cursor` to get the next page; `null` on the last.
    pub(crate) next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Makes a page of rows, of which up to `limit + 1` were read.
    pub(crate) fn cut<C: Serialize>(
        rows: Rows<T>,
        limit: u32,
        cursor: impl FnOnce(&T) -> C,
    ) -> Self {
        let more = rows.read > limit as usize;
        let mut rows = rows.readable;
        rows.truncate(limit as usize);
        let next_cursor = rows
            .last()
            .filter(|_| more)
            .map(|last| encode(&cursor(last)));
        Self {
            items: rows,
            next_cursor,
        }
    }

    pub(crate) fn filter_map<U>(self, make: impl FnMut(T) -> Option<U>) -> Page<U> {
        Page {
            items: self.items.into_iter().filter_map(make).collect(),
            next_cursor: self.next_cursor,
        }
    }
}

/// The query of a list that is only paged.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// The most items of the page (1 to 100, default 50).
    #[param(minimum = 1, maximum = 100)]
    pub(crate) limit: Option<u32>,
    /// `nextCursor` of the page before.
    pub(crate) cursor: Option<String>,
}

impl Paging {
    pub(crate) fn limit(&self) -> Result<u32, ApiError> {
        page_size(self.limit)
    }

    pub(crate) fn after<C: DeserializeOwned>(&self) -> Result<Option<C>, ApiError> {
        decode(self.cursor.as_deref())
    }
}

pub(crate) fn page_size(limit: Option<u32>) -> Result<u32, ApiError> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => Err(ApiError::field(
            "limit",
            format!("must be between 1 and {MAX_LIMIT}"),
        )),
    }
}

pub(crate) fn encode<C: Serialize>(cursor: &C) -> String {
    // Cursors are small structs of numbers, ids and text: they serialize.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(cursor).unwrap_or_default())
}

pub(crate) fn decode<C: DeserializeOwned>(cursor: Option<&str>) -> Result<Option<C>, ApiError> {
    let Some(text) = cursor else { return Ok(None) };
    URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok())
        .map(Some)
        .ok_or_else(|| {
            ApiError::field(
                "cursor",
                "is not a cursor of this list: use `nextCursor` of a page, unchanged",
            )
        })
}
