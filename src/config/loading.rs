//! A configuration on its way: the values so far, where each came from, and what was wrong.

use crate::config::error::{ConfigError, ConfigErrors, Place, repeat};
use crate::config::keys::{KEYS, Key};
use crate::config::value::{Raw, assign, expected};
use crate::config::{Config, keys};

pub(crate) struct Loading {
    pub(crate) config: Config,
    pub(crate) errors: Vec<ConfigError>,
    places: Vec<Place>,
    is_broken: Vec<bool>,
}

impl Loading {
    pub(crate) fn new() -> Self {
        Self {
            config: Config::default(),
            errors: Vec::new(),
            places: vec![Place::Default; KEYS.len()],
            is_broken: vec![false; KEYS.len()],
        }
    }

    /// Sets one key, or notes why not. `given` is the value as its author wrote it.
    pub(crate) fn set(&mut self, name: &str, raw: &Raw<'_>, given: &str, place: Place) {
        let Some((at, key)) = keys::find(name) else { return };
        if assign(key, &mut self.config, raw).is_none() {
            self.is_broken[at] = true;
            self.errors.push(ConfigError::Invalid {
                place: place.clone(),
                key: key.name,
                given: repeat(given),
                expected: expected(key),
            });
        }
        self.places[at] = place;
    }

    /// Where a key was set last.
    pub(crate) fn place(&self, name: &str) -> &Place {
        keys::find(name).map_or(&Place::Default, |(at, _)| &self.places[at])
    }

    /// Where the first of `names` that anyone set was set.
    pub(crate) fn first_place(&self, names: &[&str]) -> Place {
        let mut places = names.iter().map(|name| self.place(name));
        places.find(|place| **place != Place::Default).unwrap_or(&Place::Default).clone()
    }

    /// The key, unless a value given for it was wrong: then rules about it would only repeat that.
    pub(crate) fn sound(&self, name: &str) -> Option<&'static Key> {
        keys::find(name).filter(|(at, _)| !self.is_broken[*at]).map(|(_, key)| key)
    }

    pub(crate) fn finish(self) -> Result<Config, ConfigErrors> {
        if self.errors.is_empty() { Ok(self.config) } else { Err(ConfigErrors(self.errors)) }
    }
}
