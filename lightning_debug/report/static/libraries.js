import { use, init } from "echarts/core";
import { BarChart, HeatmapChart, LineChart } from "echarts/charts";
import {
  AriaComponent, GridComponent, LegendPlainComponent, MarkLineComponent, TooltipComponent,
  VisualMapContinuousComponent,
} from "echarts/components";
import { CanvasRenderer } from "echarts/renderers";
import { Graph, layout } from "@dagrejs/dagre";
import { select } from "d3-selection";
import { zoom, zoomIdentity } from "d3-zoom";

use([
  AriaComponent, BarChart, CanvasRenderer, GridComponent, HeatmapChart, LegendPlainComponent,
  LineChart, MarkLineComponent, TooltipComponent, VisualMapContinuousComponent,
]);

export { Graph, init, layout, select, zoom, zoomIdentity };
