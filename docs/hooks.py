"""What the site needs besides its plugins; `mkdocs.yml` names this file."""


def on_page_content(html, **_):
    """click says that an option has no default by an object that mkdocs-click prints."""
    return html.replace("<code>Sentinel.UNSET</code>", "")
