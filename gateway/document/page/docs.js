// Shows the document with Swagger UI. Keys that a reader types in stay in this tab's memory.
"use strict";

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#document",
  docExpansion: "list",
  defaultModelsExpandDepth: -1, // two hundred schemas: each is shown where it is used
  validatorUrl: null, // which would be another host
});
