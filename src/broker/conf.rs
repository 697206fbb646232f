//! Mosquitto's settings, from the one template that the container uses as well.

/// The template, as it is for a container: `mosquitto/mosquitto.conf`.
pub const TEMPLATE: &str = include_str!("../../mosquitto/mosquitto.conf");

/// The setting to replace is not in the template.
#[derive(Debug, thiserror::Error)]
#[error("mosquitto.conf has no setting {0:?} to replace")]
pub struct NoSuchSetting(String);

/// The template with these settings replaced, each by the whole rest of its line.
///
/// # Errors
/// [`NoSuchSetting`], so that a renamed setting is noticed.
pub fn render(settings: &[(&str, &str)]) -> Result<String, NoSuchSetting> {
    let mut text = String::with_capacity(TEMPLATE.len() + 256);
    let mut used = vec![false; settings.len()];
    for line in TEMPLATE.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        match settings.iter().position(|(setting, _)| *setting == name) {
            Some(index) => {
                used[index] = true;
                text.push_str(&format!("{name} {}\n", settings[index].1));
            }
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    match used.iter().position(|used| !used) {
        Some(index) => Err(NoSuchSetting(settings[index].0.to_owned())),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_replaced_where_they_stand() {
        let text = render(&[("listener", "1999 127.0.0.1")]).expect("the template has a listener");
        assert!(text.lines().any(|line| line == "listener 1999 127.0.0.1"));
        assert_eq!(text.lines().count(), TEMPLATE.lines().count());
        assert!(render(&[("no_such_setting", "1")]).is_err());
    }
}
