"""What forms and links may ask for. Only names this site made; anything else is an error that says what it is."""

from dataclasses import dataclass
from uuid import UUID

from django import forms
from django.http import QueryDict
from django.utils.translation import gettext as _

from instances.actions import Launch
from instances.lifecycle import State
from visa.errors import Invalid


class LaunchForm(forms.Form):
    """The one button of the launch page."""

    flavour = forms.SlugField(max_length=40, required=False)
    image = forms.SlugField(max_length=40, required=False)
    key = forms.CharField(max_length=64, required=False)


class DeleteForm(forms.Form):
    """Why, where the machine is somebody else's."""

    reason = forms.CharField(max_length=120, required=False)


@dataclass(frozen=True, kw_only=True)
class RollWish:
    """Which machines of the site to list: in `state`, of people whose name holds `owner`, from behind `after` on."""

    state: State | None = None
    owner: str = ""
    after: UUID | None = None


class RollForm(forms.Form):
    """The list's filters, as its links and its form write them."""

    state = forms.TypedChoiceField(
        choices=[(one, one) for one in State], coerce=State, empty_value=None, required=False
    )
    owner = forms.CharField(max_length=100, required=False)
    after = forms.UUIDField(required=False)


def roll_wish(data: QueryDict) -> RollWish:
    """The wish in an address. What cannot be read there counts as not said."""
    form = RollForm(data)
    form.is_valid()
    return RollWish(**{name: value for name, value in form.cleaned_data.items() if value})


def only(data: QueryDict, allowed: frozenset[str]) -> None:
    """Refuses parameters nobody knows, and any that is given twice. Raises Invalid."""
    for name in data:
        if name not in allowed:
            raise Invalid(
                _("A launch link takes no “%(name)s”.") % {"name": name[:40]},
                way_out=_("Use the link without it; everything else is chosen on the page."),
                field=name[:40],
            )
        if len(data.getlist(name)) > 1:
            raise Invalid(_("“%(name)s” is given more than once.") % {"name": name}, field=name)


def launch_wish(doi: str, data: QueryDict) -> Launch:
    """The wish in a posted form. Raises Invalid naming the field at fault."""
    only(data, frozenset({*LaunchForm.base_fields, "csrfmiddlewaretoken"}))
    form = LaunchForm(data)
    if not form.is_valid():
        field, errors = next(iter(form.errors.items()))
        raise Invalid(str(errors[0]), way_out=_("Open the launch page again and choose there."), field=field)
    return Launch(doi=doi, **form.cleaned_data)
