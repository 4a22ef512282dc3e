"""The doors: choose a provider, leave for it, come back, sign out, and be told by a provider that somebody left."""

import time
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth import authenticate, login, logout
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from visa.accounts import flow as flows
from visa.accounts import providers, sign_ins
from visa.accounts.models import Arrival, User
from visa.accounts.oidc import away, refused
from visa.accounts.providers import OpenIDProvider, ProviderAway
from visa.accounts.returns import local_path
from visa.accounts.sessions import SessionStore
from visa.accounts.tokens import TokenRefused, verify_logout_token
from visa.errors import NotFound, Refusal
from visa.responses import refuse

_ID_TOKEN, _PROVIDER = "visa_id_token", "visa_provider"


def _provider(slug: str) -> OpenIDProvider:
    provider = providers.named(slug)
    if provider is None:
        raise NotFound(_("This site has no sign-in of that name."), way_out=_("Start from the sign-in page."))
    return provider


def _redirect_uri(provider: OpenIDProvider) -> str:
    """From the settings and never from the request's Host: the provider compares it letter by letter."""
    return settings.SITE.url + reverse("accounts:callback", args=[provider.config.slug])


@never_cache
@require_safe
def sign_in(request: HttpRequest) -> HttpResponse:
    """Choose who vouches for you; with one provider there is no choice. Links, not forms: nothing changes yet."""
    then = local_path(request.GET.get("next"))
    if request.user.is_authenticated:
        return HttpResponseRedirect(then)
    choices = [
        {
            "label": provider.config.label,
            "url": f"{reverse('accounts:start', args=[provider.config.slug])}?{urlencode({'next': then})}",
        }
        for provider in providers.every()
    ]
    if len(choices) == 1:
        return HttpResponseRedirect(choices[0]["url"])
    return render(request, "accounts/sign_in.html", {"choices": choices, "hide_sign_in": True})


@never_cache
@require_safe
def start(request: HttpRequest, slug: str) -> HttpResponse:
    """Leave for the provider, with a cookie that lets only this browser come back (RFC 6749, 4.1.1; RFC 7636)."""
    provider = _provider(slug)
    then = local_path(request.GET.get("next"))
    try:
        endpoint = provider.metadata(there=True).authorization_endpoint
    except ProviderAway as error:
        raise away(provider, error) from error
    flow = flows.begin(slug, then)
    query = urlencode(
        {
            "response_type": "code",
            "client_id": provider.config.client_id,
            "redirect_uri": _redirect_uri(provider),
            "scope": provider.scopes,
            "state": flow.state,
            "nonce": flow.nonce,
            "code_challenge": flow.challenge,
            "code_challenge_method": "S256",
        }
    )
    response = HttpResponseRedirect(f"{endpoint}{'&' if '?' in endpoint else '?'}{query}")
    flows.remember(flow, request, response)
    return response


@never_cache
@require_safe
def callback(request: HttpRequest, slug: str) -> HttpResponse:
    """Come back from the provider. Whatever is wrong with the reply, nobody's session changes."""
    provider = _provider(slug)
    state = request.GET.get("state", "")
    flow = flows.recall(state, request)
    if flow is None:
        # A link somebody made, a tab left open too long, or a reply that was used: none may sign anybody in or out.
        raise refused(
            provider,
            "no sign-in with this state is under way in this browser",
            _("This browser has no sign-in under way that this reply belongs to."),
            _("It may have been left open too long. Start again from this site."),
            recorded=False,
        )
    try:
        response = _finish(request, provider, flow)
    except Refusal as refusal:
        response = refuse(request, refusal)
    flows.forget(state, response)
    return response


def _finish(request: HttpRequest, provider: OpenIDProvider, flow: flows.Flow) -> HttpResponse:
    issuer = provider.config.issuer
    if flow.slug != provider.config.slug:
        raise refused(provider, f"the sign-in under way is with {flow.slug} (mix-up)")
    if any(len(request.GET.getlist(name)) > 1 for name in ("state", "code", "iss", "error")):
        raise refused(provider, "a parameter came twice")
    try:
        named = provider.metadata().names_itself
    except ProviderAway as error:
        raise away(provider, error) from error
    # RFC 9207, 2.4
    if (named and "iss" not in request.GET) or request.GET.get("iss", issuer) != issuer:
        raise refused(provider, "the reply names another issuer, or none where this one names itself (mix-up)")
    if "error" in request.GET:
        told = request.GET["error"]
        message = _("You went back without signing in.") if told == "access_denied" else ""
        raise refused(
            provider,
            f"the provider says {told[:60]!r}",
            message or _("%(provider)s did not sign you in.") % {"provider": provider.config.label},
        )
    if not 0 < len(request.GET.get("code", "")) <= 4096:
        raise refused(provider, "no code in the reply")
    user = authenticate(request, provider=provider, flow=flow, redirect_uri=_redirect_uri(provider))
    if not isinstance(user, User) or user.arrival is None:
        raise refused(provider, "no backend took the reply")
    _open_session(request, provider, user, user.arrival)
    return HttpResponseRedirect(local_path(flow.next))


def _open_session(request: HttpRequest, provider: OpenIDProvider, user: User, arrival: Arrival) -> None:
    """A session with a new id and nothing of before in it; one that was open in this browser ends."""
    if request.session.session_key:
        sign_ins.end([request.session.session_key], cause="another sign-in", by=user)
    request.session.flush()
    login(request, user)
    session = request.session
    if not isinstance(session, SessionStore):
        raise TypeError("SESSION_ENGINE is not visa.accounts.sessions")
    began_at, _ends_at = session.begin()
    session[_ID_TOKEN], session[_PROVIDER] = arrival.id_token, provider.config.slug
    session.save()
    sign_ins.begin(session, arrival.identity, sid=arrival.sid, began_at=began_at)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def sign_out(request: HttpRequest) -> HttpResponse:
    """Sign out here, then at the provider (OpenID Connect RP-Initiated Logout 1.0). A GET only asks.

    The way to the provider is a page that leads on and not a redirect of the form: the content security policy lets
    forms go nowhere but here, and Chromium holds redirects of a form to that too.
    """
    if request.method != "POST":
        return render(request, "accounts/sign_out.html")
    id_token, slug = request.session.get(_ID_TOKEN), request.session.get(_PROVIDER, "")
    if request.session.session_key:
        person = request.user if isinstance(request.user, User) else None
        sign_ins.end([request.session.session_key], cause="asked for", by=person)
    logout(request)
    provider = providers.named(slug)
    endpoint = ""
    if provider is not None:
        try:
            endpoint = provider.metadata().end_session_endpoint
        except ProviderAway:
            endpoint = ""  # signed out here all the same
    if not endpoint or provider is None:
        return redirect("home")
    hint = {"id_token_hint": id_token} if id_token else {}
    query = urlencode(
        {**hint, "client_id": provider.config.client_id, "post_logout_redirect_uri": f"{settings.SITE.url}/"}
    )
    url = f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"
    return render(
        request, "accounts/signed_out.html", {"url": url, "label": provider.config.label, "hide_sign_in": True}
    )


@never_cache
@csrf_exempt
@require_POST
@sensitive_post_parameters("logout_token")
def backchannel(request: HttpRequest, slug: str) -> JsonResponse:
    """The provider says that somebody signed out there (OpenID Connect Back-Channel Logout 1.0, 2.5 to 2.8).

    The signed token in it is the only proof and the only input; cookies of the request mean nothing.
    """
    provider = _provider(slug)
    try:
        order = verify_logout_token(
            request.POST.get("logout_token"),
            issuer=provider.config.issuer,
            client_id=provider.config.client_id,
            algorithms=provider.metadata().algorithms,
            key_for=provider.key_for,
            now=time.time(),
        )
        sign_ins.obey(order)
    except (TokenRefused, sign_ins.AlreadySpent) as error:
        refused(provider, f"log-out token: {type(error).__name__} {error}", recorded=False)
        return JsonResponse({"error": "invalid_request"}, status=400)
    except ProviderAway as error:
        away(provider, error)
        return JsonResponse({"error": "temporarily_unavailable"}, status=503)
    return JsonResponse({})
