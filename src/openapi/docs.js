// Where the service begins: the page is at "docs" or "docs/" there, below whatever a proxy strips.
const root = location.pathname.replace(/\/*$/, "").replace(/[^/]*$/, "");
// Its version, so that the document is the one of this page's release, and is kept by the browser.
const { search } = new URL(document.currentScript.src);

window.ui = SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: `${location.origin}${root}docs/openapi.json${search}`,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
  plugins: [SwaggerUIBundle.plugins.DownloadUrl],
  layout: "StandaloneLayout",
  deepLinking: true,
  tryItOutEnabled: true,
  persistAuthorization: false,
  // Else the page sends the document's address to swagger.io, for a badge.
  validatorUrl: "none",
});
