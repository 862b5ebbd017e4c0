"""Pages and cards out of the templates that lie beside a package's code."""


def find(package: str, name: str):
    """A template; all that is put into one of a page is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=jinja2.select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["score"] = lambda value: (
        "-" if value is None else f"{value:.4f}"
    )
    return environment.get_template(name)
