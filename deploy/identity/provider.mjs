// The OpenID provider of the demo and of the tests: people without passwords, for this machine only.
//
//   node provider.mjs CONFIG.json
//
// It listens on loopback, prints one line of JSON, {"issuer": "..."}, once it answers, and ends with SIGTERM.
// SIGHUP makes a new signing key; the key before stays in the key set, the one before that goes.
//
// CONFIG.json:
//   port             0 for any free one
//   issuer           optional; http://127.0.0.1:<port> by default
//   title            heading of the sign-in page
//   cast             path of a JSON list of people, relative to CONFIG.json: {sub, name, summary, claims, acr?, disabled?}.
//                    Read again at each use, so that a person can change or leave while the provider runs
//   relying_parties  sites people sign in to: {slug, url, client_id, client_secret}; VISA's addresses are derived from url and slug
//   api_clients      ids of public clients that get tokens for the API by device code or by a loopback redirect

import { generateKeyPairSync, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import http from "node:http";
import path from "node:path";
import process from "node:process";

import Provider, { errors } from "oidc-provider";

import { memoryAdapter } from "./adapter.mjs";
import { choose, escape, page, signOut } from "./pages.mjs";

const HOST = "127.0.0.1";
const configPath = path.resolve(process.argv[2] ?? "config.json");
const config = JSON.parse(readFileSync(configPath, "utf8"));
const castPath = path.resolve(path.dirname(configPath), config.cast ?? "cast.json");
const title = config.title ?? "Sign in";
const Adapter = memoryAdapter();
const cookieKeys = [randomBytes(32).toString("base64url")];

const cast = () => JSON.parse(readFileSync(castPath, "utf8")).filter((person) => !person.disabled);

function newKey() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { ...privateKey.export({ format: "jwk" }), kid: randomBytes(8).toString("hex"), use: "sig", alg: "RS256" };
}

function clients() {
  const sites = (config.relying_parties ?? []).map(({ slug, url, client_id, client_secret }) => ({
    client_id,
    client_secret,
    client_name: client_id,
    grant_types: ["authorization_code"],
    response_types: ["code"],
    redirect_uris: [`${url}/signin/${slug}/callback/`],
    post_logout_redirect_uris: [`${url}/`],
    backchannel_logout_uri: `${url}/signin/${slug}/backchannel/`,
    backchannel_logout_session_required: true,
  }));
  const tools = (config.api_clients ?? []).map((client_id) => ({
    client_id,
    client_name: client_id,
    application_type: "native",
    token_endpoint_auth_method: "none",
    grant_types: ["authorization_code", "urn:ietf:params:oauth:grant-type:device_code"],
    response_types: ["code"],
    redirect_uris: [`http://${HOST}/callback`], // RFC 8252, 7.3: any port of loopback
  }));
  return [...sites, ...tools];
}

async function findAccount(ctx, sub) {
  const person = cast().find((one) => one.sub === sub);
  return person && { accountId: sub, claims: async () => ({ ...person.claims, sub }) };
}

// These sites and tools are the provider's own: being signed in is consent to what they ask.
async function loadExistingGrant(ctx) {
  const { client, session, provider, requestParamScopes } = ctx.oidc;
  const known = ctx.oidc.result?.consent?.grantId ?? session.grantIdFor(client.clientId);
  const grant = (known && (await provider.Grant.find(known))) ?? new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
  grant.addOIDCScope([...requestParamScopes].join(" "));
  await grant.save();
  return grant;
}

function html(ctx, body, nonce) {
  ctx.set("content-security-policy", `default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'${nonce ? `; script-src 'nonce-${nonce}'` : ""}`);
  ctx.type = "html";
  ctx.body = body;
}

function build(issuer, keys, port) {
  const provider = new Provider(issuer, {
    adapter: Adapter,
    clients: clients(),
    jwks: { keys },
    cookies: {
      keys: cookieKeys,
      // browsers keep cookies by host and not by port: two providers on loopback must not share names
      names: { session: `op-${port}`, interaction: `op-${port}-interaction`, resume: `op-${port}-resume` },
    },
    claims: {
      openid: ["sub"],
      profile: ["name", "given_name", "family_name", "preferred_username"],
      email: ["email", "email_verified"],
      voperson_id: ["voperson_id"],
      eduperson_entitlement: ["eduperson_entitlement", "entitlements"],
      eduperson_scoped_affiliation: ["eduperson_scoped_affiliation"],
      voperson_external_affiliation: ["voperson_external_affiliation"],
      eduperson_assurance: ["eduperson_assurance"],
      aarc: ["voperson_id", "eduperson_entitlement", "eduperson_scoped_affiliation", "voperson_external_affiliation", "eduperson_assurance"],
    },
    pkce: { required: () => true },
    ttl: { AccessToken: 3600, AuthorizationCode: 60, IdToken: 600, Interaction: 900, Session: 43200, Grant: 43200, DeviceCode: 600 },
    // Loopback is where the sites of a demo stand; oidc-provider's own fetch refuses private addresses.
    fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
    findAccount,
    loadExistingGrant,
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    renderError: async (ctx, out) => {
      html(ctx, page("That did not work", `<p>${escape(out.error_description ?? out.error)}</p><p><small>${escape(out.error)}</small></p>`));
    },
    features: {
      devInteractions: { enabled: false },
      claimsParameter: { enabled: true },
      introspection: { enabled: true, allowedPolicy: (ctx, client) => client.clientAuthMethod !== "none" },
      revocation: { enabled: true },
      backchannelLogout: { enabled: true },
      rpInitiatedLogout: {
        enabled: true,
        logoutSource: async (ctx, form) => {
          const nonce = randomBytes(16).toString("base64url");
          html(ctx, signOut(form, nonce), nonce);
        },
        postLogoutSuccessSource: async (ctx) => html(ctx, page("You are signed out", "<p>You can close this page.</p>")),
      },
      deviceFlow: {
        enabled: true,
        userCodeInputSource: async (ctx, form, out, error) => {
          const words = error ? "That code is not known here. Look again and type it once more." : "Type the code that your program shows.";
          html(ctx, page("Connect a program", `<p>${words}</p>${form}<button type="submit" form="op.deviceInputForm">Continue</button>`));
        },
        userCodeConfirmSource: async (ctx, form, client, info, code) => {
          html(
            ctx,
            page(
              "Connect a program",
              `<p>Does ${escape(client.clientId)} show this code?</p><p><code>${escape(code)}</code></p>${form}
<button type="submit" form="op.deviceConfirmForm"><strong>Yes, connect it</strong></button>
<button type="submit" form="op.deviceConfirmForm" name="abort" value="yes"><small>No, stop</small></button>`,
            ),
          );
        },
        successSource: async (ctx) => html(ctx, page("Connected", "<p>Go back to your program.</p>")),
      },
    },
  });

  provider.use(async (ctx, next) => {
    if (!ctx.path.startsWith("/interaction/")) return next();
    try {
      await interact(provider, ctx);
    } catch (error) {
      if (!(error instanceof errors.OIDCProviderError)) throw error;
      ctx.status = 400;
      html(ctx, page("Start again", "<p>This sign-in was left open too long, or belongs to another browser. Go back to the site and sign in again.</p>"));
    }
  });
  for (const event of ["server_error", "backchannel.error"]) {
    provider.on(event, (...args) => console.error(event, args.find((arg) => arg instanceof Error)?.message));
  }
  return provider;
}

async function formOf(req) {
  let text = "";
  for await (const chunk of req) {
    text += chunk;
    if (text.length > 4096) break;
  }
  return new URLSearchParams(text);
}

async function interact(provider, ctx) {
  const { params, prompt } = await provider.interactionDetails(ctx.req, ctx.res);
  if (prompt.name === "consent") {
    // asked of every native client (RFC 8252, 8.6); these are ours
    ctx.redirect(await provider.interactionResult(ctx.req, ctx.res, { consent: {} }, { mergeWithLastSubmission: true }));
    ctx.status = 303;
    return undefined;
  }
  if (ctx.method !== "POST") return html(ctx, choose(title, params.client_id, cast()));
  const sub = (await formOf(ctx.req)).get("person");
  const person = cast().find((one) => one.sub === sub);
  const result = person
    ? { login: { accountId: person.sub, ...(person.acr && { acr: person.acr }) } }
    : { error: "access_denied", error_description: "The person went back." };
  ctx.redirect(await provider.interactionResult(ctx.req, ctx.res, result, { mergeWithLastSubmission: false }));
  ctx.status = 303;
  return undefined;
}

let answer = (req, res) => {
  res.writeHead(503).end();
};
const server = http.createServer((req, res) => answer(req, res));

server.on("error", (error) => {
  console.error(`The identity provider cannot listen on ${HOST}:${config.port}: ${error.code}`);
  process.exit(1);
});

server.listen(config.port ?? 0, HOST, () => {
  const { port } = server.address();
  const issuer = config.issuer ?? `http://${HOST}:${port}`;
  let keys = [newKey()];
  answer = build(issuer, keys, port).callback();
  process.on("SIGHUP", () => {
    keys = [newKey(), keys[0]];
    answer = build(issuer, keys, port).callback();
    console.error(`new signing key ${keys[0].kid}`);
  });
  process.stdout.write(`${JSON.stringify({ issuer })}\n`);
});

for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => process.exit(0));
